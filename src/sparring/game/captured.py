"""One step as a CUDA graph: recorded once, then replayed without a launch for every kernel."""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparring.randomness import Stream

Step = Callable[[Tensor], dict[str, Tensor]]
WARM_UP = 3  # eager steps, which also train: libraries allocate and choose their kernels in the first ones


class Captured:
    """A step that takes indices (B,) or (S, B) and returns metrics; after some eager calls it is captured and replayed.

    The step must not ask the device for a value. What it does may depend on the call's `course`, such as whose turn it is: each
    course is captured by itself. Draws from `streams` go on being their own: their generators are registered with each graph,
    and seeking moves them. Its metrics are overwritten by the next call.
    """

    def __init__(self, step: Step, streams: Sequence[Stream] = ()) -> None:
        self.step = step
        self.streams = streams
        self.calls: dict[Hashable, int] = {}
        self.recorded: dict[Hashable, _Recorded] = {}

    def __call__(self, index: Tensor, course: Hashable = None) -> dict[str, Tensor]:
        self.calls[course] = self.calls.get(course, 0) + 1
        if self.calls[course] <= WARM_UP:
            return self._eager(index)
        if course not in self.recorded:
            self.recorded[course] = self._record(index)
        graph, own, metrics = self.recorded[course]
        own.copy_(index)
        graph.replay()
        return metrics

    def _eager(self, index: Tensor) -> dict[str, Tensor]:
        """On a stream of its own, as capturing is: what is allocated lazily is then there."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            metrics = self.step(index)
        torch.cuda.current_stream().wait_stream(side)
        return metrics

    def _record(self, index: Tensor) -> "_Recorded":
        own, graph = index.clone(), torch.cuda.CUDAGraph()
        for stream in self.streams:
            for one in stream.generators(index.device):
                graph.register_generator_state(one)
        with torch.cuda.graph(graph):
            metrics = self.step(own)
        return _Recorded(graph, own, metrics)


class _Recorded(NamedTuple):
    """A course as a graph, and the memory that it reads its indices from and writes its metrics to."""

    graph: torch.cuda.CUDAGraph
    rows: Tensor
    metrics: dict[str, Tensor]
