"""One step as a CUDA graph: recorded once, then replayed without a launch for every kernel."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparring.randomness import Stream

Step = Callable[[Tensor], dict[str, Tensor]]
WARM_UP = 3  # eager steps, which also train: libraries allocate and choose their kernels in the first ones


class Captured:
    """A step that takes indices (B,) or (S, B) and returns metrics; after some eager calls it is captured and replayed.

    The step must not ask the device for a value. Draws from `streams` go on being their own: their generators are registered
    with the graph, and seeking moves them. Its metrics are overwritten by the next call.
    """

    def __init__(self, step: Step, streams: Sequence[Stream] = ()) -> None:
        self.step = step
        self.streams = streams
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.index: Tensor | None = None
        self.metrics: dict[str, Tensor] = {}

    def __call__(self, index: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls <= WARM_UP:
            return self._eager(index)
        if self.graph is None:
            self._capture(index)
        assert self.graph is not None and self.index is not None
        self.index.copy_(index)
        self.graph.replay()
        return self.metrics

    def _eager(self, index: Tensor) -> dict[str, Tensor]:
        """On a stream of its own, as capturing is: what is allocated lazily is then there."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            metrics = self.step(index)
        torch.cuda.current_stream().wait_stream(side)
        return metrics

    def _capture(self, index: Tensor) -> None:
        self.index, graph = index.clone(), torch.cuda.CUDAGraph()
        for stream in self.streams:
            for one in stream.generators(index.device):
                graph.register_generator_state(one)
        with torch.cuda.graph(graph):
            self.metrics = self.step(self.index)
        self.graph = graph
