"""For the site: the comments beside a class's fields become its docstring's `Attributes`."""

import io
import tokenize

import griffe


class Fields(griffe.Extension):
    """As mkdocs.yml names it, an extension of mkdocstrings' Griffe."""

    def on_class_members(self, *, cls: griffe.Class, agent, **kwargs) -> None:
        """Add the section to a class that has no such section of its own."""
        if cls.docstring is None or "Attributes:" in cls.docstring.value:
            return
        beside = _comments(agent.code)
        said = []
        for name, field in cls.members.items():
            if not field.is_attribute or field.annotation is None or name.startswith("_"):
                continue
            text = _comment(beside, field.lineno, field.endlineno)
            if text:
                said.append(f"    {name}: {text}")
        if said:
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(said)


def _comments(code: str) -> dict[int, tuple[str, bool]]:
    """Line number -> the comment on that line, and whether it has the line to itself."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return {
        token.start[0]: (token.string.lstrip("# "), token.line.lstrip().startswith("#"))
        for token in tokens
        if token.type == tokenize.COMMENT
    }


def _comment(comments: dict[int, tuple[str, bool]], first: int, last: int) -> str:
    """The comment on a field's lines; where there is none, those on the lines above it."""
    beside = [comments[line][0] for line in range(first, last + 1) if line in comments]
    above = []
    while comments.get(first - 1, ("", False))[1]:
        first -= 1
        above.insert(0, comments[first][0])
    return " ".join(beside or above)
