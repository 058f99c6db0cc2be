"""Names, comments, error sentences and documentation use the field's terms: phrases that do not, and what to write."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

BANNED = {
    r"begun": "created, or started",
    r"begins? (a|an|the|one|another) (new )?session": "creates a session",
    r"sessions? that (begins?|began)": "a session that is created",
    r"anew|_anew": "again, or re-…; `_fresh_state`",
    r"(stands?|stood) at": "is at",
    r"(a|an|the|each|every|for|of|its) repeats?": "a retry",
    r"(a|an|the|its|their|first|stored|kept|same|other) answers?": "a response",
    r"(at|to|for) this address(?! and port)": "a URL, or a path",
    r"told apart": "distinguished",
    r"side by side": "batched",
    r"(is|are|be|been) refused|refuses": "is rejected, or is invalid",
    r"tak(e|es|en|ing) (it |them |that )?over|take_over": "migrates; is promoted; replaces",
    r"(is|are|was|were|been) gone": "expired or deleted; not served; unavailable",
    r"(is|are|of) no use": "say what does not happen: reading a session does not extend its TTL",
    r"makes? nothing": "fails with 412 if the resource exists",
    r"in the place of what is there": "if the resource exists",
    r"do(es)? the like": "runs the same checks",
    r"dearer": "costs more",
    r"the floor": "the baseline",
    r"OwnValkey": "`EmbeddedValkey`",
    r"own Valkey": "the embedded Valkey",
    r"redeem(s|ed)?": "`replay_or_raise`",
    r"(a|the|its) claim": "a lock",
    r"Once\.of|(?<=:\s)Once(?=[\s,)])": "`IdempotencyKey`",
    r"_Chain": "`SessionBatch`",
    r"_Place": "`SessionState`",
    r"poisoned": "`non_finite`",
    r"Watched": "`FrozenBuffer`",
    r"drifted": "`value_changed`",
    r"elsewhere(?=\()": "`run_in_thread`",
    r"whole(?=\()": "`read_body`",
    r"arrivals": "`iter_body`",
    r"ask again": "retry",
    r"lies? in Redis": "is stored in Redis",
    r"tells? of": "reports",
    r"by way of": "through",
}
"""Regular expressions between word boundaries, and what to write instead."""

TABLE_HEAD = re.compile(r"\| what( it (does|says))? +\|")

BANNED_FILES = frozenset({
    "once", "proof", "stack", "wire", "cautions", "examination", "trial", "figures", "draft", "writing", "candidates",
})  # fmt: skip
"""Names of modules that say less than the term: idempotency, selfcheck, deep_stack, transport, warnings, report …"""

PATTERNS = ("README.md", "docs/**/*.md", "service/**/*.py", "service/**/*.lua", "models/**/*.py", "examples/**/*.py",
            "examples/**/*.toml", "checkpoints/**/*.toml", "deploy/**/*", "docker-compose.yml", "Dockerfile",
            ".env.example", "Makefile")  # fmt: skip

_GAP = r"[\s#]+"
"""What may stand between the words of a phrase: also a line's end, and the start of the next in a comment."""
_BANNED = re.compile(
    "|".join(rf"(?P<p{i}>(?<!\w)(?:{pattern.replace(' ', _GAP)})(?!\w))" for i, pattern in enumerate(BANNED))
)


def checked_files() -> list[Path]:
    found = {path for pattern in PATTERNS for path in ROOT.glob(pattern) if path.is_file()}
    return sorted(found)


def banned_in(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the phrase and what to write instead of each banned phrase."""
    replacements = list(BANNED.values())
    for match in _BANNED.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield line, " ".join(match.group().split()), replacements[int(str(match.lastgroup)[1:])]
    for match in TABLE_HEAD.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match.group(), "| description |"


def prose(path: Path) -> str:
    """A file's text. In Markdown without inline code: what it quotes is the program's, which is checked itself."""
    text = path.read_text()
    return re.sub(r"(?<!`)`[^`\n]+`(?!`)", "`…`", text) if path.suffix == ".md" else text


def test_no_banned_phrase_is_used() -> None:
    files = checked_files()
    assert len(files) > 40
    found = [
        f"{path.relative_to(ROOT)}:{line}: {phrase!r}; write: {replacement}"
        for path in files
        for line, phrase, replacement in banned_in(prose(path))
    ]
    assert not found, "\n" + "\n".join(found)


def test_no_module_has_a_banned_name() -> None:
    found = [path for path in checked_files() if path.suffix == ".py" and path.stem in BANNED_FILES]
    assert found == []


@pytest.mark.parametrize(
    "sentence",
    [
        "the session was begun at step 0", "drawn anew", "it stands at step 3", "a repeat gets the same bytes",
        "an answer is kept", "there is nothing at this address", "they are told apart", "rows side by side",
        "the model is refused", "?migrate=true takes it over", "the session is gone", "looking at it is no use",
        "a key makes a step dearer", "its own Valkey", "once: Once | None", "| variable | what |",
        "| key | what it says |", "begin a session", "the rows are laid side\n    # by side",
    ],
)  # fmt: skip
def test_a_banned_phrase_is_noticed(sentence: str) -> None:
    assert list(banned_in(sentence))


@pytest.mark.parametrize(
    "sentence",
    [
        "labels.repeat(steps)", "the request is repeated", "each line is answered as soon as it is committed",
        "a connection that was refused", "the sessions that beginners create", "Once all of it is here",
        "the address and port to listen on", "it goes on without sessions", "the whole interface",
        "HTTPS at this address and port",
    ],
)  # fmt: skip
def test_correct_english_is_left_alone(sentence: str) -> None:
    assert list(banned_in(sentence)) == []
