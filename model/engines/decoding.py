"""From a prefilled cache to text, greedily, for rows that are all equally long: no padding, no mask.

Two ways. `Slab` keeps keys and values in memory taken once and written in place (transformers' own dynamic cache copies
all of it at every step), and lets finished rows go, so that a batch does not run at full width to its longest answer.
`CompiledDecoder` runs a compiled step on transformers' static cache, for small batches on CUDA, where launching kernels
one by one costs more than running them. Knows token ids and the network, and nothing of images or verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache, StaticCache
from transformers.cache_utils import DynamicLayer

# Letting rows go copies the rest once, about two steps' worth of reading it; measured in docs/performance.md.
FINISHED_SHARE = 1 / 8
# How many steps run on CUDA between two looks at what was written: every look waits for the device.
CUDA_STRIDE = 8
BACKEND = "inductor"  # torch.compile's


class _SlabLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values for `rows` × `length` tokens; what is in use is a view of that memory."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._rows, self._length = 0, length
        self._used = slice(0, 0)
        self._memory: tuple[torch.Tensor, torch.Tensor] | None = None

    def use(self, rows: slice) -> None:
        """From now on, these rows, empty."""
        self._used = rows
        self.is_initialized = False

    def grow(self, rows: int, kept: int) -> None:
        """Make room for `rows` rows; of those there are, the first `kept` stay."""
        self._rows, before = rows, self._memory
        if before is None:
            return
        self._memory = (self._empty(before[0]), self._empty(before[1]))
        for memory, old in zip(self._memory, before, strict=True):
            memory[:kept] = old[:kept]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        self.keys, self.values = (memory[self._used, :, :end] for memory in self._of(key_states, value_states))
        self.keys[:, :, start:], self.values[:, :, start:] = key_states, value_states
        self.is_initialized = True
        return self.keys, self.values

    def widen(self, rows: slice) -> None:
        """These rows, as long as those in use are."""
        assert self._memory is not None
        self._used = rows
        self.keys, self.values = (memory[rows, :, : self.get_seq_length()] for memory in self._memory)

    def keep(self, rows: torch.Tensor, at: int) -> None:
        """Move the named rows of those in use to places from `at` on, and use them."""
        assert self._memory is not None
        length, used = self.get_seq_length(), slice(at, at + len(rows))
        for memory, view in zip(self._memory, (self.keys, self.values), strict=True):
            memory[used, :, :length] = view.index_select(0, rows)
        self.widen(used)

    def _of(self, key_states: torch.Tensor, value_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self._memory is None:
            self._memory = (self._empty(key_states), self._empty(value_states))
        return self._memory

    def _empty(self, states: torch.Tensor) -> torch.Tensor:
        return states.new_empty((self._rows, states.shape[1], self._length, states.shape[3]))


class Slab(Cache):  # type: ignore[misc]
    """A cache of rows of up to `length` tokens, filled from the first row on by prefills of a few rows each.

    Memory for all rows is taken once a prefill's rows no longer fit behind those kept: never, where none is kept.
    """

    def __init__(self, layers: int, length: int) -> None:
        super().__init__(layers=[_SlabLayer(length) for _ in range(layers)])
        self.kept = 0
        self._rows = 0

    def open(self, rows: int, coming: int) -> None:
        """The next prefill writes `rows` rows behind those kept; it is one of `coming` rows in all, these included."""
        if self.kept + rows > self._rows:
            self._rows = self.kept + coming if self.kept else rows
            for layer in self.layers:
                layer.grow(self._rows, self.kept)
        for layer in self.layers:
            layer.use(slice(self.kept, self.kept + rows))

    def keep(self, rows: Sequence[int]) -> None:
        """Of the rows just prefilled, keep these."""
        if rows:
            self._move(rows, self.kept)
        self.kept += len(rows)

    def use_kept(self) -> None:
        for layer in self.layers:
            layer.widen(slice(0, self.kept))

    def drop_to(self, rows: Sequence[int]) -> None:
        """Of the rows in use, go on with these."""
        self._move(rows, 0)

    def _move(self, rows: Sequence[int], at: int) -> None:
        index = torch.tensor(rows, device=self.layers[0].keys.device)
        for layer in self.layers:
            layer.keep(index, at)


@torch.inference_mode()
def decode(network: Any, cache: Slab, first: torch.Tensor, *, end: int, limit: int) -> list[list[int]]:
    """Greedy continuation of every kept row of `cache`, up to and with token `end`, or for `limit` tokens.

    `network` is a LlavaForConditionalGeneration; `first`, rows × tokens, follows the prefill and is given.
    """
    cache.use_kept()
    stride = stride_on(first)
    written: list[list[int]] = [[] for _ in range(len(first))]
    rows, fed = list(range(len(first))), first
    for done in range(0, limit, stride):
        block = []
        for _ in range(min(stride, limit - done)):
            fed = _next(network, cache, fed)
            block.append(fed)
        going = _append(written, rows, torch.cat(block, dim=1).tolist(), end)
        if not going:
            break
        if len(rows) - len(going) >= FINISHED_SHARE * len(rows):
            cache.drop_to(going)
            fed, rows = fed[torch.tensor(going, device=fed.device)], [rows[place] for place in going]
    return written


class CompiledDecoder:
    """Decodes batches of exactly `rows` rows of up to `length` tokens: one cache and one compilation serve them all."""

    def __init__(self, network: Any, rows: int, length: int) -> None:
        self.rows = rows
        self._network = network
        self._cache = StaticCache(config=network.config.text_config, max_cache_len=length)
        mode = "reduce-overhead" if BACKEND == "inductor" else None  # CUDA graphs
        self._step = torch.compile(_next, fullgraph=True, backend=BACKEND, mode=mode)
        self.forget()

    def forget(self) -> None:
        """Compile anew at the next step, because the network's layers are others now.

        torch keeps what it compiled of a function for every network it met, and refuses to go on after eight of them.
        """
        torch.compiler.reset()

    def cache(self) -> StaticCache:
        """The cache, empty: a graph that was captured writes to its addresses, so there is never another."""
        self._cache.reset()
        return self._cache

    @torch.inference_mode()
    def decode(self, first: torch.Tensor, wanted: Sequence[int], *, end: int, limit: int) -> list[list[int]]:
        """See `decode`; goes on until the rows in `wanted` have ended. The rest come along: the graph has one width."""
        stride = stride_on(first)
        fed = _next(self._network, self._cache, first)  # more tokens than one: another shape than the compiled one
        written, rows = fed.tolist(), list(range(len(first)))
        for done in range(1, limit, stride):
            block = []
            for _ in range(min(stride, limit - done)):
                fed = self._step(self._network, self._cache, fed).clone()  # a replayed graph writes to the same memory
                block.append(fed)
            if not set(wanted) & set(_append(written, rows, torch.cat(block, dim=1).tolist(), end)):
                break
        return written


def _next(network: Any, cache: Cache, fed: torch.Tensor) -> torch.Tensor:
    """The likeliest next token of every row: rows × 1."""
    hidden = network.model.language_model(input_ids=fed, past_key_values=cache, use_cache=True).last_hidden_state
    token: torch.Tensor = network.lm_head(hidden[:, -1:]).argmax(dim=-1)
    return token


def stride_on(tensor: torch.Tensor) -> int:
    """How many steps run between two looks at what was written, on this tensor's device."""
    return CUDA_STRIDE if tensor.is_cuda else 1


def _append(written: list[list[int]], rows: list[int], block: list[list[int]], end: int) -> list[int]:
    """Add a block of tokens to its rows, up to and with `end`; the places in the batch of those that have not ended."""
    for row, tokens in zip(rows, block, strict=True):
        if written[row][-1:] != [end]:
            written[row] += tokens[: tokens.index(end) + 1] if end in tokens else tokens
    return [place for place, row in enumerate(rows) if written[row][-1:] != [end]]
