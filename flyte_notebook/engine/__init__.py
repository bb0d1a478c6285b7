"""Runs jobs in workers, from the kernel's side."""

from flyte_notebook.engine.engine import Engine, EngineError, Origin
from flyte_notebook.engine.output_pump import Sink, StreamName

__all__ = ["Engine", "EngineError", "Origin", "Sink", "StreamName"]
