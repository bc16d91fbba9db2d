"""Training processes to kill. They are forked from a server that has imported everything once, so that one costs
milliseconds."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastpref._files import SaveError
from fastpref.train import TrainConfig, checkpoint, main, train

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.train.processes", "transformers.models.llama.modeling_llama", "yaml", "tyro"])


class Run:
    """A process that runs ``target(config, *args)``; what it prints goes to ``output`` + ``.out``."""

    def __init__(self, target: Callable[..., Any], config: TrainConfig, *args: Any) -> None:
        self.printed = Path(f"{config.output}.out")
        call = (target, config, args, self.printed, os.environ["FASTPREF_CACHE"])
        self.process = _CONTEXT.Process(target=_child, args=call)
        self.process.start()

    def finish(self) -> tuple[int, str]:
        """Exit status (negative: the signal that killed it) and what it printed."""
        self.process.join(120)
        assert self.process.exitcode is not None, "hangs"
        return self.process.exitcode, self.printed.read_text()


def _child(target: Callable[..., Any], config: TrainConfig, args: tuple[Any, ...], printed: Path, cache: str) -> None:
    os.environ["FASTPREF_CACHE"] = cache
    file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.exit(target(config, *args))


def arguments(config: TrainConfig) -> list[str]:
    """The command line of a configuration."""
    given = {k: v for k, v in dataclasses.asdict(config).items() if v is not None and not isinstance(v, bool)}
    return [word for k, v in given.items() for word in (f"--{k.replace('_', '-')}", str(v))]


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def plain(config: TrainConfig) -> int:
    train(config)
    return 0


def command(config: TrainConfig, argv: list[str]) -> int:
    return main(argv)


def die_after_step(config: TrainConfig, step: int) -> int:
    train(config, callbacks=[lambda record, policy: record["step"] == step and die()])
    return 0


def die_while_saving(config: TrainConfig) -> int:
    """The model's weights are written, the optimiser's state is not."""
    checkpoint._optimizer_tensors = die
    train(config)
    return 0


def full_disk_after_step(config: TrainConfig, step: int, argv: list[str]) -> int:
    """Files of a later checkpoint cannot grow beyond 100 kB; its model needs 430 kB."""
    import resource

    save = checkpoint.save

    def limited(output: Path, state: checkpoint.TrainerState, **rest: Any) -> Path:
        if state.step > step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        return save(output, state, **rest)

    checkpoint.save = limited
    return main(argv)


def full_log_after_step(config: TrainConfig, step: int) -> int:
    """The log cannot grow any more."""
    import resource

    def limit(record: dict[str, Any], policy: Any) -> None:
        if record["step"] == step:
            size = Path(config.output, "log.jsonl").stat().st_size + 10
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    try:
        train(config, callbacks=[limit])
    except SaveError as error:
        print(error)
        return 1
    return 0
