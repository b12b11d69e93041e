"""Accuracy of written answers: greedy decoding, then parsing the answer from the text.

Prompt formats (`FORMATS`). *fewshot*: worked examples of the calibration split, then the question; the examples are
the first in source order, never the question itself. *zeroshot*: the task's instruction, then the question. *chat*:
question and instruction as a user's message in the model's own chat template.

Writing ends at an end-of-text token, at one of the task's stop strings (which is cut off), or at the token limit. A
prompt that leaves no room for that many tokens is cut at its beginning, and the report says so. Few-shot text, stop
strings and parsing of GSM8K follow lm-evaluation-harness' task `gsm8k`, so that the numbers are comparable.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from cap_viz.attribution.batch_plan import BatchPlan
from cap_viz.attribution.result_base import Result, drawing
from cap_viz.attribution.results import sample_words
from cap_viz.errors import UsageError, choose
from cap_viz.models.tensors import Tensor
from cap_viz.progress import Progress, Steps, finish_with_bar
from cap_viz.stats import wilson
from cap_viz.tasks import Example, Task, all_tasks
from cap_viz.tasks.base import TaskVersion, tasks_of
from cap_viz.tasks.pairing import Items
from cap_viz.tasks.writing import Writing

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from cap_viz.models.loading import ReasoningModel
    from cap_viz.pruning.mask import Mask

PromptFormat = Literal["fewshot", "zeroshot", "chat"]
FORMATS: tuple[PromptFormat, ...] = get_args(PromptFormat)
# Reasons why a text ends, in the order of their numbers in a run's table.
ENDINGS = ("length", "end of text", "stop string")
LENGTH, END_OF_TEXT, STOP_STRING = range(3)
# Rows per batch: with more, two laptop cores gain little and the first results come late.
ROWS = 32
# Padding after the end of a text.
NO_TOKEN = -1


@dataclass(frozen=True)
class GenerationProtocol:
    """Prompt format (one of `FORMATS`) and the limit on an answer's tokens."""

    format: str
    max_tokens: int


@dataclass(frozen=True)
class GenerationPlan:
    """Prompts as tokens and the batches, fixed before the first forward.

    `dropped[i]` tokens were cut from the beginning of prompt i to leave room for the answer.
    """

    examples: tuple[Example, ...]
    prompts: tuple[tuple[int, ...], ...]
    dropped: tuple[int, ...]
    batches: BatchPlan
    writing: Writing
    max_tokens: int


@dataclass(frozen=True)
class Block:
    """A finished batch: its tokens (-1 after a text's end), and per text its ending as an index into `ENDINGS`."""

    batch: int
    tokens: Int[np.ndarray, "row token"]
    ended: Int[np.ndarray, " row"]


@dataclass(frozen=True)
class Unfinished:
    """Progress of a batch still being written, in texts."""

    done: float


@dataclass(frozen=True, repr=False)
class GenerationReport(Result):
    """Written text of every example, and the answers its strict and flexible readings found (None where none).

    `tokens` counts the tokens written, `dropped` the tokens cut from the beginning of the prompt; `ended` indexes
    `ENDINGS`. `tasks` are the tasks of the examples.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    gold: tuple[str, ...]
    strict: tuple[str | None, ...]
    flexible: tuple[str | None, ...]
    tokens: Int[np.ndarray, " example"]
    ended: Int[np.ndarray, " example"]
    dropped: Int[np.ndarray, " example"]
    tasks: tuple[TaskVersion, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def items(self) -> Items:
        """Items for pairing reports; the right answer stands alone, since there are no options."""
        return Items(self.tasks, self.ids, tuple((gold,) for gold in self.gold))

    @property
    def correct(self) -> Bool[np.ndarray, " example"]:
        """Exact match of the strict reading with the right answer."""
        return np.array([found == gold for found, gold in zip(self.strict, self.gold, strict=True)], dtype=bool)

    @property
    def correct_flexible(self) -> Bool[np.ndarray, " example"]:
        return np.array([found == gold for found, gold in zip(self.flexible, self.gold, strict=True)], dtype=bool)

    @property
    def parse_rate(self) -> float:
        """Share of texts in which the strict reading finds an answer; the others count as wrong."""
        return float(np.mean([found is not None for found in self.strict]))

    @property
    def parse_rate_flexible(self) -> float:
        return float(np.mean([found is not None for found in self.flexible]))

    @property
    def headline(self) -> str:
        right, ci = self.correct, wilson(int(self.correct.sum()), len(self))
        found = f"exact match {right.mean():.1%} [{ci.low:.1%}, {ci.high:.1%}], an answer in {self.parse_rate:.1%}"
        return f"{sample_words(len(self), self.tasks)}, {found}"

    def overview(self) -> pd.DataFrame:
        """Return the exact match of both readings with 95 % intervals, and how often they found an answer."""
        rows = []
        for name, right, parsed in (
            ("exact_match", self.correct, self.parse_rate),
            ("exact_match_flexible", self.correct_flexible, self.parse_rate_flexible),
        ):
            ci = wilson(int(right.sum()), len(self))
            level = {"value": float(right.mean()), "ci_low": ci.low, "ci_high": ci.high}
            rows.append({"measure": name, **level, "parse_rate": parsed})
        return pd.DataFrame(rows)

    def to_pandas(self) -> pd.DataFrame:
        """Tabulate the written answers, one row per example.

        Columns: id, text, strict and flexible (the answer that each reading found; None where none), gold, right and
        right_flexible (exact match), ended (length, end of text, stop string), tokens written, dropped (tokens cut from
        the beginning of the prompt).
        """
        return pd.DataFrame(
            {
                "id": self.ids,
                "text": self.texts,
                "strict": self.strict,
                "flexible": self.flexible,
                "gold": self.gold,
                "right": self.correct,
                "right_flexible": self.correct_flexible,
                "ended": [ENDINGS[number] for number in self.ended],
                "tokens": self.tokens,
                "dropped": self.dropped,
            }
        )

    def plot(self) -> go.Figure:
        """Draw the exact match of both readings with their intervals."""
        with drawing():
            from cap_viz.figures.results import NamedLevel, share_levels
        levels = self.overview().drop(columns="parse_rate").itertuples(index=False, name=None)
        return share_levels([NamedLevel(*level) for level in levels])

    def to_tables(self) -> dict[str, pd.DataFrame]:
        """Table `answers`: one row per example; `strict` and `flexible` are null where a reading found no answer."""
        answers = pd.DataFrame(
            {
                "example": np.arange(len(self), dtype=np.int32),
                "id": self.ids,
                "text": self.texts,
                "strict": pd.Series(self.strict, dtype="string"),
                "flexible": pd.Series(self.flexible, dtype="string"),
                "gold": self.gold,
                "tokens": self.tokens.astype(np.int32),
                "ended": self.ended.astype(np.int8),
                "dropped": self.dropped.astype(np.int32),
            }
        )
        return {"answers": answers}

    @classmethod
    def from_tables(cls, tables: Mapping[str, pd.DataFrame], *, tasks: tuple[TaskVersion, ...] = ()) -> Self:
        table = tables["answers"]
        strict, flexible = (
            tuple(None if pd.isna(answer) else str(answer) for answer in table[name]) for name in ("strict", "flexible")
        )
        tokens, ended, dropped = (table[name].to_numpy(dtype=np.int64) for name in ("tokens", "ended", "dropped"))
        return cls(
            ids=tuple(table["id"]),
            texts=tuple(table["text"]),
            gold=tuple(table["gold"]),
            strict=strict,
            flexible=flexible,
            tokens=tokens,
            ended=ended,
            dropped=dropped,
            tasks=tasks,
        )


def writing_of(task: Task) -> Writing:
    if task.writing is None:
        able = ", ".join(name for name, one in all_tasks().items() if one.writing is not None)
        raise UsageError(f"Task {task.name} has no answers to write out; choose one of {able}.")
    return task.writing


def room_for_answer(writing: Writing, n_ctx: int) -> int:
    """Return the limit on an answer's tokens: the task's own, at most half of the tokens a model can read."""
    return min(writing.max_tokens, n_ctx // 2)


def generation_protocol(task: Task, format: str, max_tokens: int) -> GenerationProtocol:
    """Check how answers are asked for.

    Raises `UsageError` for a task without written answers, an unknown format, or a token limit below 1.
    """
    writing_of(task)
    choose("prompt format", format, FORMATS)
    if max_tokens < 1:
        raise UsageError(f"At most {max_tokens} tokens leave nothing to write; allow at least 1.")
    return GenerationProtocol(format, max_tokens)


def prompt_text(task: Task, example: Example, format: str) -> str:
    """Build the prompt of a format as plain text; for "chat", the user's message."""
    writing = writing_of(task)
    if format == "fewshot":
        return "".join(f"{shot.prompt}{shot.solution}\n\n" for shot in shots(task, example)) + example.prompt
    if format == "zeroshot":
        return f"{writing.instruction}\n\n{example.prompt}"
    return f"{example.question}\n\n{writing.instruction}"


def shots(task: Task, example: Example) -> tuple[Example, ...]:
    """Choose the worked examples before a question. Raises `UsageError` when the calibration split has too few."""
    wanted = writing_of(task).shots
    pool = (one for one in task.splits.calibration if one.solution is not None and one.id != example.id)
    found = tuple(shot for shot, _ in zip(pool, range(wanted), strict=False))
    if len(found) < wanted:
        raise UsageError(
            f"Task {task.name} has {len(found)} worked examples in its calibration split, {wanted} are needed; "
            "choose the format zeroshot."
        )
    return found


def gold_answer(task: Task, example: Example) -> str:
    """Read the answer from the worked solution. Raises `UsageError` where the source has none."""
    found = None if example.solution is None else writing_of(task).read_strictly(example.solution)
    if found is None:
        raise UsageError(f"Example {example.id!r} of {task.name} has no worked solution to compare with.")
    return found


def prompt_tokens(model: ReasoningModel, text: str, format: str) -> tuple[int, ...]:
    """Tokenise a prompt. Raises `UsageError` for format "chat" on a model without a chat template."""
    tokenizer = model.tokenizer
    if format != "chat":
        return tuple(tokenizer.encode(text))
    if not tokenizer.chat_template:
        raise UsageError(f"{model.ref.id} has no chat template; choose the format fewshot or zeroshot.")
    message = [{"role": "user", "content": text}]
    return tuple(tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True, return_dict=False))


def generation_plan(
    model: ReasoningModel,
    task: Task,
    protocol: GenerationProtocol,
    examples: Sequence[Example],
    batches: BatchPlan | None = None,
) -> GenerationPlan:
    """Encode the prompts and plan the batches, or follow `batches` on resume.

    Raises `UsageError` where the answers would leave no room for a prompt.
    """
    room = model.shape.n_ctx - protocol.max_tokens
    if room < 1:
        raise UsageError(
            f"{protocol.max_tokens} new tokens leave no room for a prompt in the {model.shape.n_ctx} tokens that "
            f"{model.ref.id} can read; allow fewer."
        )
    with model.lease:
        whole = [prompt_tokens(model, prompt_text(task, one, protocol.format), protocol.format) for one in examples]
    if batches is None:
        from cap_viz.attribution.forward.shortcut_checks import direct_decoding_is_valid

        numbers = range(len(examples))
        batches = BatchPlan(
            tuple(tuple(numbers[start : start + ROWS]) for start in range(0, len(examples), ROWS)),
            packed=False,
            direct=direct_decoding_is_valid(model, [prompt[-room:] for prompt in whole]),
        )
    return GenerationPlan(
        examples=tuple(examples),
        prompts=tuple(prompt[-room:] for prompt in whole),
        dropped=tuple(max(0, len(prompt) - room) for prompt in whole),
        batches=batches,
        writing=writing_of(task),
        max_tokens=protocol.max_tokens,
    )


def generation_steps(
    model: ReasoningModel,
    plan: GenerationPlan,
    weights: Mapping[str, Tensor] | None = None,
    *,
    only: Iterable[int] | None = None,
) -> Generator[Block | Unfinished, None, None]:
    """Decode batch by batch, all batches or `only` some, with `weights` swapped in, one step per token.

    The model is dense again at every yield.
    """
    for number in plan.batches.numbers(only):
        prompts = [plan.prompts[i] for i in plan.batches.batches[number]]
        yield from batch_steps(model, plan, number, prompts, weights or {})


def batch_steps(
    model: ReasoningModel,
    plan: GenerationPlan,
    number: int,
    prompts: Sequence[Sequence[int]],
    weights: Mapping[str, Tensor],
) -> Generator[Block | Unfinished, None, None]:
    from cap_viz.attribution.forward.greedy import end_tokens, greedy_steps

    tokens = np.full((len(prompts), plan.max_tokens), NO_TOKEN, dtype=np.int32)
    ended = np.full(len(prompts), LENGTH, dtype=np.int8)
    ends, tail = end_tokens(model), tail_length(plan.writing)
    steps = greedy_steps(
        model, prompts, plan.max_tokens, direct=plan.batches.direct, changed=lambda: model.swapped(weights)
    )
    writing, kept = list(range(len(prompts))), None
    for column in range(plan.max_tokens):
        chosen = next(steps) if column == 0 else steps.send(kept)
        tokens[writing, column] = chosen.cpu().numpy()
        for row in writing:
            if tokens[row, column] in ends:
                tokens[row, column], ended[row] = NO_TOKEN, END_OF_TEXT
            elif holds_stop(model, tokens[row, max(0, column + 1 - tail) : column + 1], plan.writing):
                ended[row] = STOP_STRING
        kept = [place for place, row in enumerate(writing) if ended[row] == LENGTH]
        writing = [writing[place] for place in kept]
        if not writing:
            break
        yield Unfinished(len(prompts) - len(writing) * (1 - (column + 1) / plan.max_tokens))
    yield Block(number, tokens, ended)


def tail_length(writing: Writing) -> int:
    """Return how many last tokens of a text are sure to contain a stop string that was just completed."""
    return max((len(stop.encode("utf-8")) for stop in writing.stops), default=0) + 1


def holds_stop(model: ReasoningModel, tail: Int[np.ndarray, " token"], writing: Writing) -> bool:
    text = model.tokenizer.decode(tail, clean_up_tokenization_spaces=False)
    return any(stop in text for stop in writing.stops)


def text_of(model: ReasoningModel, tokens: Int[np.ndarray, " token"], writing: Writing) -> str:
    """Decode written tokens, cut before the first stop string."""
    real = [int(token) for token in tokens if token != NO_TOKEN]
    text = model.tokenizer.decode(real, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text[: min([len(text), *(text.index(stop) for stop in writing.stops if stop in text)])]


class GenerationArrays:
    """Collector of blocks; `report()` covers the examples collected so far."""

    def __init__(self, model: ReasoningModel, plan: GenerationPlan, task: Task) -> None:
        self.model, self.plan = model, plan
        self.gold = [gold_answer(task, example) for example in plan.examples]
        self.tokens = np.full((len(plan.examples), plan.max_tokens), NO_TOKEN, dtype=np.int32)
        self.ended = np.zeros(len(plan.examples), dtype=np.int8)
        self.arrived: list[int] = []

    def add(self, block: Block) -> None:
        members = list(self.plan.batches.batches[block.batch])
        self.tokens[members], self.ended[members] = block.tokens, block.ended
        self.arrived += members

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """Return the arrays of one batch."""
        members = list(self.plan.batches.batches[number])
        return {"tokens": self.tokens[members], "ended": self.ended[members]}

    def restore(self, number: int, content: dict[str, np.ndarray]) -> None:
        """Add a batch from its arrays: the inverse of `batch`."""
        self.add(Block(number, content["tokens"], content["ended"]))

    def report(self) -> GenerationReport:
        rows, writing = sorted(self.arrived), self.plan.writing
        with self.model.lease:
            texts = tuple(text_of(self.model, self.tokens[row], writing) for row in rows)
        return GenerationReport(
            ids=tuple(self.plan.examples[row].id for row in rows),
            texts=texts,
            gold=tuple(self.gold[row] for row in rows),
            strict=tuple(writing.read_strictly(text) for text in texts),
            flexible=tuple(writing.read_flexibly(text) for text in texts),
            tokens=(self.tokens[rows] != NO_TOKEN).sum(axis=1),
            ended=self.ended[rows].astype(np.int64),
            dropped=np.array([self.plan.dropped[row] for row in rows], dtype=np.int64),
            tasks=tasks_of(self.plan.examples),
        )


def writing_steps(
    model: ReasoningModel,
    task: Task,
    protocol: GenerationProtocol,
    examples: Sequence[Example],
    mask: Mask | None = None,
) -> Steps[GenerationReport]:
    """Have the model, pruned by `mask` if one is given, write its answers to `examples`, token by token."""
    plan = generation_plan(model, task, protocol, examples)
    with model.lease:
        weights = {} if mask is None else model.pruned_weights(mask.keep, mask.updated)
    arrays = GenerationArrays(model, plan, task)
    for step in generation_steps(model, plan, weights):
        under_way = 0.0
        if isinstance(step, Block):
            arrays.add(step)
        else:
            under_way = step.done
        yield Progress(len(arrays.arrived) + under_way, len(examples), "writing answers")
    return arrays.report()


def generate(
    model: ReasoningModel,
    task: Task,
    examples: Sequence[Example],
    *,
    format: PromptFormat = "fewshot",
    max_tokens: int | None = None,
    mask: Mask | None = None,
    progress: bool = True,
) -> GenerationReport:
    """Have the model write its answers to examples of a task, pruned by `mask` if one is given, and read them.

    `max_tokens` limits an answer; left out, it is the task's own limit, at most half of what the model can read.
    `progress` shows a bar. Raises `UsageError` for a task without written answers, an unknown format, no examples, or a
    limit that leaves no room for the prompt.
    """
    most = room_for_answer(writing_of(task), model.shape.n_ctx) if max_tokens is None else max_tokens
    protocol = generation_protocol(task, format, most)
    if not examples:
        raise UsageError("There are no examples to answer.")
    return finish_with_bar(writing_steps(model, task, protocol, examples, mask), progress)
