"""One run, driven from outside: attempts, their failures, the run directory, what a person sees."""
