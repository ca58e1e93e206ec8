"""Attention over a paged KV cache: single rows and whole spans of a prompt, with grouped query heads, online softmax.

A row attends to positions 0..its own of its sequence. Positions are worked off in parts of fixed length that are
joined in order, so a row's bits depend neither on the batch nor on how its prompt was cut. Keys lie transposed in the
cache. A value that is not a number may reach other rows of its own sequence, never another sequence's.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.attention_tile import divide, join, product, put, softmax_row
from topmast_kernels.cpu.jit import LANES, kernel
from topmast_kernels.cpu.layout import COUNT, LINE, ROW, SPLIT, START, Layout, Paged
from topmast_kernels.cpu.rows import rotate_head
from topmast_kernels.cpu.simd import strict_kernel, take_number

_QUERIES = 8  # rows of a span that share the loads of keys and values
_TASKS_PER_THREAD = 8  # with fewer, the parts of a sequence are spread over the threads
_LOG2_E = 1.4426950408889634
_KEY, _VALUE = 0, 1
_SPAN, _FIRST, _HEAD, _PART, _PARTS = range(5)  # columns of a task list; part -1: all of them, in order


@strict_kernel
def _piece(paged: Paged, layout: Layout, layer: int, which: int, line: int, head: int, position: int) -> int:
    """The address of one head's keys or values from `position` on, as far as its block goes."""
    item, size = 2 if layout.half else 4, layout.block_size
    before = ((layer * 2 + which) * layout.kv_heads + head) * size * layout.head_size
    slot = position % size * (1 if which == _KEY else layout.head_size)
    return int(paged.cache[paged.tables[line, position // size]].ctypes.data + (before + slot) * item)


@strict_kernel
def _store_head(
    qkv: NDArray[np.float32], row: int, position: int, line: int, head: int, paged: Paged, layout: Layout, layer: int
) -> None:
    width = layout.head_size
    turned, scale = np.empty(width, np.float32), np.empty(1, np.float32)
    scale[0] = 1.0
    cosines, sines = paged.cosines[position].ctypes.data, paged.sines[position].ctypes.data
    key = qkv.ctypes.data + (row * qkv.shape[1] + (layout.heads + head) * width) * 4
    rotate_head(key, cosines, sines, turned.ctypes.data, width, layout.interleaved, scale.ctypes.data)
    place = _piece(paged, layout, layer, _KEY, line, head, position)
    put(layout.half, turned.ctypes.data, place, layout.block_size, width)
    place = _piece(paged, layout, layer, _VALUE, line, head, position)
    put(layout.half, key + layout.kv_heads * width * 4, place, 1, width)


@strict_kernel
def _store_row(
    qkv: NDArray[np.float32], row: int, position: int, line: int, paged: Paged, layout: Layout, layer: int
) -> None:
    for head in range(layout.kv_heads):
        _store_head(qkv, row, position, line, head, paged, layout, layer)


@kernel(parallel=True)
def store_kv(qkv: NDArray[np.float32], paged: Paged, layout: Layout, layer: int, lone: bool) -> None:
    """Write each row's key, rotated, and value to its place; rows that are alone in their span only where `lone`.

    qkv [M, (heads + 2 kv_heads) * D]: queries, keys, values. `attend` stores lone rows itself: nobody else reads them.
    """
    spans = paged.spans
    for s in range(len(spans)):
        first, start, line = spans[s, ROW], spans[s, START], spans[s, LINE]
        if spans[s, COUNT] > 1:
            for n in numba.prange(spans[s, COUNT]):
                _store_row(qkv, first + n, start + n, line, paged, layout, layer)
        elif lone:
            _store_row(qkv, first, start, line, paged, layout, layer)


@strict_kernel
def plan_tasks(paged: Paged, layout: Layout, threads: int) -> NDArray[np.int64]:
    """The pieces of one layer's attention [tasks, 5]: tiles of a span's rows, or parts of a lone row, per KV head.

    The parts of a row lie one after another. Later tiles of a span cost more and come first.
    """
    spans, lone = paged.spans, 0
    for s in range(len(spans)):
        lone += spans[s, COUNT] == 1
    spread = lone * layout.kv_heads < threads * _TASKS_PER_THREAD
    count = 0
    for s in range(len(spans)):
        tiles = (spans[s, COUNT] + _QUERIES - 1) // _QUERIES
        count += layout.kv_heads * ((spans[s, START] // SPLIT + 1) if spread and spans[s, COUNT] == 1 else tiles)
    tasks = np.empty((count, 5), np.int64)
    n = 0
    for s in range(len(spans)):
        tiles, parts = (spans[s, COUNT] + _QUERIES - 1) // _QUERIES, 1
        if spread and spans[s, COUNT] == 1:
            parts = spans[s, START] // SPLIT + 1
        for tile in range(tiles - 1, -1, -1):
            for head in range(layout.kv_heads):
                for part in range(parts):
                    tasks[n, _SPAN], tasks[n, _FIRST], tasks[n, _HEAD] = s, tile * _QUERIES, head
                    tasks[n, _PART], tasks[n, _PARTS] = part if parts > 1 else -1, parts
                    n += 1
    return tasks


@strict_kernel
def _attend_tile(
    task: NDArray[np.int64],
    qkv: NDArray[np.float32],
    paged: Paged,
    layout: Layout,
    layer: int,
    fetch: int,
    states: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """One task: out [rows, D] and states [rows, 2] as `join` has them, rows by query, then head.

    `fetch`: the address of the keys that this thread will probably need next, or 0.
    """
    width, size, group = layout.head_size, layout.block_size, layout.heads // layout.kv_heads
    span, head = paged.spans[task[_SPAN]], task[_HEAD]
    start = span[START] + task[_FIRST]
    queries = min(_QUERIES, span[COUNT] - task[_FIRST])
    rows = queries * group
    if span[COUNT] == 1 and (task[_PART] < 0 or task[_PART] == task[_PARTS] - 1):
        _store_head(qkv, span[ROW], start, span[LINE], head, paged, layout, layer)
    query = np.empty((rows, width), np.float32)
    scale = np.empty(1, np.float32)
    scale[0] = _LOG2_E / np.sqrt(width)
    for row in range(rows):
        n, at = row // group, start + row // group
        source = (span[ROW] + task[_FIRST] + n) * qkv.shape[1] + (head * group + row % group) * width
        cosines, sines, target = paged.cosines[at].ctypes.data, paged.sines[at].ctypes.data, query[row].ctypes.data
        rotate_head(qkv.ctypes.data + source * 4, cosines, sines, target, width, layout.interleaved, scale.ctypes.data)
        states[row, 0], states[row, 1] = -np.inf, 0.0
        for d in range(width):
            out[row, d] = 0.0
    scores = np.empty((rows, SPLIT), np.float32)
    part, state = np.empty((rows, width), np.float32), np.empty((rows, 2), np.float32)
    line, step = span[LINE], min(size, SPLIT)
    end = start + queries  # positions that any of the rows needs
    first, last = (0, (end - 1) // SPLIT) if task[_PART] < 0 else (task[_PART], task[_PART])
    for split in range(first, last + 1):
        base = split * SPLIT
        count = min(SPLIT, end - base)
        padded = (count + LANES - 1) // LANES * LANES
        for at in range(0, padded, step):
            keys = _piece(paged, layout, layer, _KEY, line, head, base + at)
            follower = (_KEY, base + at + step) if at + step < padded else (_VALUE, base)
            ahead = _piece(paged, layout, layer, follower[0], line, head, follower[1]) - keys
            into, columns = scores.ctypes.data + at * 4, min(step, padded - at)
            product(rows, layout.half, query.ctypes.data, width, keys, size, width, into, SPLIT, columns, 0, ahead)
        for row in range(rows):
            valid = min(SPLIT, start + row // group + 1 - base)
            softmax_row(scores[row].ctypes.data, valid, padded, state[row].ctypes.data)
        for at in range(0, count, step):
            values = _piece(paged, layout, layer, _VALUE, line, head, base + at)
            follower = (_VALUE, base + at + step) if at + step < count else (_KEY, base + SPLIT)
            if follower[1] < end:
                ahead = _piece(paged, layout, layer, follower[0], line, head, follower[1]) - values
            else:
                ahead = fetch - values if fetch != 0 else 0
            weights, terms, into = scores.ctypes.data + at * 4, min(step, count - at), part.ctypes.data
            product(rows, layout.half, weights, SPLIT, values, width, terms, into, width, width, at, ahead)
        for row in range(rows):
            answer, answer_state = out[row].ctypes.data, states[row].ctypes.data
            join(answer, answer_state, part[row].ctypes.data, state[row].ctypes.data, width)


@strict_kernel
def _work_off(
    counter: int,
    tasks: NDArray[np.int64],
    qkv: NDArray[np.float32],
    paged: Paged,
    layout: Layout,
    layer: int,
    threads: int,
    parts: NDArray[np.float32],
    part_states: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Take tasks until none is left."""
    width = layout.head_size
    group = layout.heads // layout.kv_heads
    answer = np.empty((_QUERIES * group, width), np.float32)
    states = np.empty((_QUERIES * group, 2), np.float32)
    while True:
        n = take_number(counter)
        if n >= len(tasks):
            return
        task = tasks[n]
        fetch, later = 0, n + threads
        if later < len(tasks):
            start = max(0, tasks[later, _PART]) * SPLIT
            line = paged.spans[tasks[later, _SPAN], LINE]
            fetch = _piece(paged, layout, layer, _KEY, line, tasks[later, _HEAD], start)
        if task[_PART] >= 0:
            _attend_tile(task, qkv, paged, layout, layer, fetch, part_states[n], parts[n])
            continue
        _attend_tile(task, qkv, paged, layout, layer, fetch, states, answer)
        span = paged.spans[task[_SPAN]]
        for row in range(min(_QUERIES, span[COUNT] - task[_FIRST]) * group):
            at = span[ROW] + task[_FIRST] + row // group
            place = out.ctypes.data + (at * layout.heads + task[_HEAD] * group + row % group) * width * 4
            divide(answer[row].ctypes.data, states[row, 1:].ctypes.data, place, width)


@strict_kernel
def _join_parts(
    tasks: NDArray[np.int64],
    paged: Paged,
    layout: Layout,
    parts: NDArray[np.float32],
    part_states: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """The lone rows whose parts were spread over the threads."""
    width = layout.head_size
    group = layout.heads // layout.kv_heads
    for n in range(len(tasks)):
        if tasks[n, _PART] != 0:
            continue
        for row in range(group):
            answer, state = parts[n, row].ctypes.data, part_states[n, row].ctypes.data
            for part in range(n + 1, n + tasks[n, _PARTS]):
                join(answer, state, parts[part, row].ctypes.data, part_states[part, row].ctypes.data, width)
            at = paged.spans[tasks[n, _SPAN], ROW] * layout.heads + tasks[n, _HEAD] * group + row
            divide(answer, state + 4, out.ctypes.data + at * width * 4, width)


@kernel(parallel=True)
def attend(
    tasks: NDArray[np.int64],
    counter: NDArray[np.int64],
    qkv: NDArray[np.float32],
    paged: Paged,
    layout: Layout,
    layer: int,
    threads: int,
    out: NDArray[np.float32],
) -> None:
    """out [M, heads * D]: the attention of all rows. `store_kv` comes first.

    tasks: from `plan_tasks`. counter [1] starts at 0 and tells the threads which task is next: tasks differ in cost.
    """
    kept = 0
    for n in range(len(tasks)):
        if tasks[n, _PART] >= 0:
            kept = len(tasks)
    parts = np.empty((kept, layout.heads // layout.kv_heads, layout.head_size), np.float32)
    part_states = np.empty((kept, layout.heads // layout.kv_heads, 2), np.float32)
    next_task = counter.ctypes.data
    for _thread in numba.prange(min(threads, len(tasks))):
        _work_off(next_task, tasks, qkv, paged, layout, layer, threads, parts, part_states, out)
    if kept:
        _join_parts(tasks, paged, layout, parts, part_states, out)
