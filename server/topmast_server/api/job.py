"""A request that was understood: what the engine shall generate, and how the answer is spelt."""

from __future__ import annotations

from dataclasses import dataclass

from topmast_server.api.admission import answer_tokens, refuse_endless_text
from topmast_server.api.errors import bad_request
from topmast_server.api.generation import Choice
from topmast_server.api.protocol import ChatRequest, CompletionRequest
from topmast_server.api.service import TextSide
from topmast_server.api.shapes import ChatShape, CompletionShape, Shape, Usage
from topmast_server.api.terms import Terms
from topmast_server.messages import Sampling
from topmast_server.supervisor.supervisor import Sequence


@dataclass(frozen=True, slots=True)
class Job:
    """`prompts` are token ids; `stop_token_ids` include the model's own endings."""

    request: ChatRequest | CompletionRequest
    terms: Terms
    shape: Shape
    prompts: list[list[int]]
    stop_token_ids: list[int]
    replayed: list[int]  # tokens of the answer that another server has made

    @property
    def prompt_tokens(self) -> int:
        """As usage counts them: each prompt once, however many answers it gets."""
        return sum(map(len, self.prompts))

    @property
    def tokens_to_compute(self) -> int:
        """Before the first new token, where nothing is cached."""
        return self.prompt_tokens * self.request.n + len(self.replayed)

    @property
    def journal(self) -> bool:
        """Whether a journal was asked for and can be kept: it follows one answer."""
        return self.terms.journal and len(self.prompts) * self.request.n == 1

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        options = self.request.stream_options
        return options is not None and options.include_usage

    def limits(self, context: int) -> list[int]:
        """How many tokens each prompt's answer may still get; 400 where prompt and answer cannot fit."""
        made = len(self.replayed)
        limits = [answer_tokens(len(prompt), self.request.token_limit, context) - made for prompt in self.prompts]
        if min(limits) < 1:
            raise bad_request(
                f"the continuation has {made} tokens already, as many as the answer may have; ask for more of them",
                "continuation",
            )
        return limits

    def sequences(self, limits: list[int]) -> list[Sequence]:
        """n per prompt, in the order of the choices' indexes. Who goes on with an answer goes first: it was begun."""
        request = self.request
        return [
            Sequence(
                prompt + self.replayed,
                limit,
                _sampling(request, place),
                self.stop_token_ids,
                request.ignore_eos,
                0 if self.replayed else request.priority,
                self.terms.deadline_s,
                request.cache_salt or "",
            )
            for prompt, limit in zip(self.prompts, limits, strict=True)
            for place in range(request.n)
        ]

    def usage(self, choices: list[Choice]) -> Usage:
        """A prompt's cached tokens count once, too; those of a replayed answer are none of the prompt's."""
        answers = sum(choice.tokens for choice in choices)
        cached = sum(choice.cached_tokens for choice in choices[:: self.request.n])
        return Usage(self.prompt_tokens, answers, min(cached, self.prompt_tokens))


async def understand(
    request: ChatRequest | CompletionRequest, terms: Terms, text: TextSide, naming: tuple[str, str], context: int
) -> Job:
    """Tokenise; `naming` is the request's id and the model's name. 400 where no tokens come of it."""
    include_usage = request.stream_options is not None and request.stream_options.include_usage
    replayed = [] if request.continuation is None else request.continuation.token_ids
    created = None if request.continuation is None else request.continuation.created
    shape: Shape
    prompts: list[list[int]] = []
    if isinstance(request, ChatRequest):
        shape = ChatShape(*naming, include_usage, created)
        prompt = text.template.render(request.messages, request.chat_template_kwargs)
        refuse_endless_text(prompt, text.longest_token_bytes, context)
        prompts.append(await text.encode(prompt, add_special=False))
    else:
        shape = CompletionShape(*naming, include_usage, created)
        for given in request.prompts:
            prompts.append(await _token_ids(given, text, context))
    # The file's token list names endings that its scalar metadata, all that the engine reads, may not.
    endings = [] if request.ignore_eos else text.tokenizer.stop_token_ids
    _refuse_unknown(replayed, text, "continuation")
    return Job(request, terms, shape, prompts, [*request.stop_token_ids, *endings], replayed)


async def _token_ids(given: str | list[int], text: TextSide, context: int) -> list[int]:
    if isinstance(given, str):
        refuse_endless_text(given, text.longest_token_bytes, context)
        ids = await text.encode(given, add_special=True)
        if not ids:
            raise bad_request("the prompt is empty; send at least one character", "prompt")
        return ids
    _refuse_unknown(given, text, "prompt")
    return given


def _refuse_unknown(given: list[int], text: TextSide, param: str) -> None:
    size = text.tokenizer.vocab_size
    if (largest := max(given, default=0)) >= size:
        raise bad_request(f"token id {largest} does not exist; this model has {size} tokens", param)


def _sampling(request: ChatRequest | CompletionRequest, place: int) -> Sampling:
    # Choices of one request must differ, and do so the same way every time.
    seed = None if request.seed is None else (request.seed + place) % 2**63
    return Sampling(request.temperature, max(0, request.top_k), request.top_p, request.min_p, seed)
