"""What `raysft submit` and `raysft jobs` do: one call of submit/ each, lines, and the exit code of the job."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from raysft.api import verbs as api
from raysft.cli.verbs import call, say
from raysft.errors import RecipeError
from raysft.observe.console import printable

logger = logging.getLogger(__name__)


def submit(options: argparse.Namespace) -> int | None:
    recipe = api.load(options.recipe, options.set)
    if options.on is not None:
        return _to_kubernetes(recipe, options)
    if options.model is not None:
        raise _not_with("--model", "--address", "pods are sized for Kubernetes alone: leave it out")
    variables = call("submit.parcel:named_variables")(options.env, os.environ)
    call("submit.parcel:check_recipe")(recipe, options.verb)
    server = _connected(options)
    if options.dry_run:
        say(call("submit.jobs:preview")(server, recipe, options.verb, variables))
        return None
    job = call("submit.jobs:submit")(server, recipe, options.verb, variables, debug=options.debug)
    if options.detach:
        logger.info("follow it    raysft jobs attach %s --address %s", job, server.address)
        return None
    return _follow(server, job)


def _to_kubernetes(recipe: Any, options: argparse.Namespace) -> int:
    if options.env:
        raise _not_with("--env", "--on", "name Secrets in the cluster's file (`secrets:`); their keys are variables")
    if options.insecure_http:
        raise _not_with("--insecure-http", "--on", "leave it out: the kubeconfig says how its server is reached")
    verb: Any = options.verb if options.verb != "prepare" else "train"
    found = api.manifest(recipe, options.on, options.model, verb=verb)
    wanted = found.only("prepare") if options.verb == "prepare" else found
    if options.verb == "prepare" and len(wanted.objects) == 1:
        raise _not_with("--verb prepare", "prepare_cpus: 0", "set prepare_cpus in the cluster's file, or train")
    for line in wanted.bill:
        logger.info(line)
    if options.dry_run:
        sys.stdout.write(wanted.yaml)
        return 0
    cluster = call("runtime.kubernetes_client:Kubernetes")()
    name = wanted.objects[-1]["metadata"]["name"]
    return _uninterrupted(
        lambda: int(call("submit.rayjobs:submit")(cluster, wanted.objects, detach=options.detach)),
        "the same command",
        f"raysft jobs stop {name} --on {options.on}",
    )


def _not_with(option: str, other: str, fix: str) -> RecipeError:
    return RecipeError(f"{option} means nothing with {other}", got=option, expected=f"{other} without it", fix=fix)


def list_jobs(options: argparse.Namespace) -> None:
    if options.on is not None:
        say(call("submit.rayjobs:lines")(*_kubernetes(options)))
    else:
        say(call("submit.jobs:lines")(_connected(options).jobs(), time.time()))


def logs(options: argparse.Namespace) -> None:
    server = _connected(options)
    call("submit.jobs:find")(server, options.job)
    _write(printable(server.log(options.job)))


def stop(options: argparse.Namespace) -> None:
    if options.on is not None:
        cluster, namespace = _kubernetes(options)
        call("submit.rayjobs:stop")(cluster, namespace, options.job)
        logger.info("%s and its pods are gone; submitted again the run goes on from its last commit", options.job)
        return
    job = call("submit.jobs:stop")(_connected(options), options.job)
    logger.info("%s has ended: %s", job.id, job.status)


def attach(options: argparse.Namespace) -> int:
    if options.on is not None:
        cluster, namespace = _kubernetes(options)
        job = call("submit.rayjobs:find")(cluster, namespace, options.job)
        return _uninterrupted(
            lambda: int(call("submit.rayjobs:follow")(cluster, job).exit_code),
            f"raysft jobs attach {options.job} --on {options.on}",
            f"raysft jobs stop {options.job} --on {options.on}",
        )
    server = _connected(options)
    call("submit.jobs:find")(server, options.job)
    return _follow(server, options.job)


def _kubernetes(options: argparse.Namespace) -> tuple[Any, str]:
    """The API server, and the namespace that a cluster's file names."""
    if options.insecure_http:
        raise _not_with("--insecure-http", "--on", "leave it out: the kubeconfig says how its server is reached")
    settings = call("kube.settings:read_settings")(options.on)
    return call("runtime.kubernetes_client:Kubernetes")(), settings.namespace


def _connected(options: argparse.Namespace) -> Any:
    return call("submit.reach:connect")(options.address, insecure_http=options.insecure_http)


def _follow(server: Any, job: str) -> int:
    """To the job's end; returns its exit code."""

    def followed() -> int:
        ended = call("submit.follow:follow")(server, job, _write)
        logger.info(call("submit.follow:last_line")(ended))
        return int(call("submit.follow:exit_code")(ended))

    where = f"{job} --address {server.address}"
    return _uninterrupted(followed, f"raysft jobs attach {where}", f"raysft jobs stop {where}")


def _uninterrupted(following: Callable[[], int], again: str, end: str) -> int:
    """What following() returns. Ctrl-C leaves the job alone, and says so. again, end: the commands for that."""
    try:
        return following()
    except KeyboardInterrupt:
        sys.stderr.write(f"\ndetached; the job goes on\n  follow it: {again}\n  end it:    {end}\n")
        return 130


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
