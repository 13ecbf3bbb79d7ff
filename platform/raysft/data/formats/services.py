"""Files made for other companies' tuning services -> the same record under the names of ours. Pure.

    OpenAI's pairs    {input: {messages, tools, ...}, preferred_output: [...], non_preferred_output: [...]}
                      (developers.openai.com: direct preference optimization)
    Gemini's talks    {system_instruction: {parts}, contents: [{role, parts}], tools: [{functionDeclarations}]},
                      with completions: [{score, completion: {role, parts}}] a ranking
                      (docs.cloud.google.com: Gemini, prepare supervised and preference tuning data)

Only the places change: what a part, a call or a tool may be is said where these are read, and a record that does not
have the form stays as it is. Google writes its names in camelCase or with underscores.
"""

from __future__ import annotations

import json
from typing import Any

from raysft.data.formats.values import Record, RefusedError, is_empty, read_text, short_value
from raysft.data.records import Refusal

_OUTPUTS = {
    "preferred_output": "chosen",
    "preferred_completion": "chosen",
    "non_preferred_output": "rejected",
    "non_preferred_completion": "rejected",
}
_SYSTEM = ("systemInstruction", "system_instruction")
_DECLARATIONS = ("functionDeclarations", "function_declarations")
_CALL = ("functionCall", "function_call")
_RESULT = ("functionResponse", "function_response")


def as_ours(record: Record) -> Record | Refusal:
    """The record under this package's names, or the record itself."""
    if not _OUTPUTS.keys().isdisjoint(record):
        return _pair(record)
    if "contents" not in record or not _have_parts(record["contents"]):
        return record
    try:
        return _talk(record)
    except RefusedError as refused:
        return refused.refusal


def _pair(record: Record) -> Record:
    asked = record.get("input")
    ours = {_OUTPUTS.get(name, name): value for name, value in record.items() if name != "input"}
    if not isinstance(asked, dict) or "messages" not in asked or not {"chosen", "rejected"} <= ours.keys():
        return record
    return {**asked, **ours} if asked.keys().isdisjoint(ours) else record


def _have_parts(turns: Any) -> bool:
    return isinstance(turns, list) and bool(turns) and all(isinstance(t, dict) and "parts" in t for t in turns)


def _talk(record: Record) -> Record:
    found = {name: value for name, value in record.items() if name not in ("contents", *_SYSTEM)}
    found["messages"] = [turn for content in record["contents"] for turn in _turns(content)]
    if system := next((record[name] for name in _SYSTEM if not is_empty(record.get(name))), None):
        found["system"] = _text(system)
    if isinstance(tools := record.get("tools"), list):
        found["tools"] = [declared for tool in tools for declared in _declared(tool)]
    if isinstance(answers := record.get("completions"), list):
        found["completions"] = [_answer(answer) for answer in answers]
    return found


def _text(content: Any) -> str:
    """The text of a Content whose parts are texts."""
    return read_text(content["parts"] if isinstance(content, dict) and "parts" in content else content, "system")


def _turns(content: dict[str, Any]) -> list[dict[str, Any]]:
    """A Content -> one turn, or one for each result of a tool."""
    parts = content["parts"] if isinstance(content["parts"], list) else [content["parts"]]
    beside = {name: value for name, value in content.items() if name != "parts"}
    results = [_inner(part, _RESULT) for part in parts]
    if any(result is not None for result in results):
        if None in results:
            raise RefusedError("unsupported_content", f"a turn has results of tools and more: {short_value(parts)}")
        return [{**beside, "role": "tool", **_said(result)} for result in results if result is not None]
    calls = [_inner(part, _CALL) for part in parts]
    first = next((place for place, call in enumerate(calls) if call is not None), len(parts))
    if None in calls[first:]:
        raise RefusedError(
            "unsupported_content", f"`parts` has something behind its first call: {short_value(parts)}"
        )
    turn = {"role": "user", **beside, "content": [_part(part) for part in parts[:first]] or ""}
    return [turn | ({"tool_calls": calls[first:]} if first < len(parts) else {})]


def _inner(part: Any, names: tuple[str, str]) -> Any:
    """What a part holds under one of these names; None: it is of another kind."""
    return (
        next((part[name] for name in names if part.get(name) is not None), None) if isinstance(part, dict) else None
    )


def _said(result: Any) -> dict[str, Any]:
    """A FunctionResponse as a turn's text, a JSON object, and its function's name."""
    if not isinstance(result, dict) or "response" not in result:
        raise RefusedError("wrong_type", f"`functionResponse` needs `response`, got {short_value(result)}")
    said = result["response"]
    rest = {name: value for name, value in result.items() if name not in ("response", "id")}
    text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    return {**rest, "content": text, "tool_call_id": result.get("id")}


def _part(part: Any) -> Any:
    """A part in the form of turns: a text, or a thought."""
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        rest = {name: value for name, value in part.items() if name != "thought"}
        return {**rest, "type": "thinking" if part.get("thought") else "text"}
    return part


def _declared(tool: Any) -> list[Any]:
    found = _inner(tool, _DECLARATIONS)
    return found if isinstance(found, list) and len(tool) == 1 else [tool]


def _answer(answer: Any) -> Any:
    """{score, completion: Content} -> a turn with its score."""
    inner = answer.get("completion") if isinstance(answer, dict) else None
    if not isinstance(inner, dict) or "parts" not in inner or len(turns := _turns({"role": "model", **inner})) != 1:
        return answer
    return turns[0] | {name: value for name, value in answer.items() if name != "completion"}
