"""How a row of the vocabulary is cut, for the kernels and their twins alike: a function of its length and nothing else.

Tokens lie in lines of 64, and block b of S owns the lines b, b + S, b + 2S and so on. Sums and noise follow blocks and
lines, so a row's result has the same bits in every batch and for every dtype of the logits.
"""

from __future__ import annotations

LINE = 64  # tokens; 128 bytes of bf16, the unit of a read from memory
BLOCK = 4096  # tokens; with fewer, the reductions across threads cost more than the elements


def block_size(vocabulary: int) -> int:
    """Tokens in a block of a row with `vocabulary` tokens: 4096, or all of a shorter row."""
    return min(BLOCK, max(LINE, 1 << (vocabulary - 1).bit_length()))


def block_count(vocabulary: int, block: int) -> int:
    """S, the number of blocks of `block` tokens."""
    return -(-vocabulary // block)


def checked_block(vocabulary: int, block: int | None) -> int:
    """`block`, or the row's own size for None; ValueError for a size that no kernel takes."""
    if vocabulary < 1:
        raise ValueError(f"a vocabulary of {vocabulary} tokens has nothing to choose from; give the model's vocabulary")
    if block is None:
        return block_size(vocabulary)
    if block < LINE or block & (block - 1):
        raise ValueError(f"block={block}: give a power of two of at least {LINE}, or None")
    return block
