"""What `raysft tune` does, as a job on a cluster:

ray job submit --runtime-env cluster/runtime_env.yaml -- python jobs/tune_job.py RECIPE --set storage=/shared/storage
"""

import os
import sys

from raysft.cli import main

if __name__ == "__main__":
    os.environ.setdefault("RAY_ADDRESS", "auto")  # a job belongs to the cluster it was submitted to
    sys.exit(main(["tune", *sys.argv[1:]]))
