"""What clients may ask for. What is not known here is ignored, as other servers do."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator


class StreamOptions(BaseModel):
    include_usage: bool = False


class JsonSchema(BaseModel):
    name: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")


class ResponseFormat(BaseModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")  # llama.cpp's spelling, beside json_object


class GenerationRequest(BaseModel):
    """What both kinds of completion share; None: the server's setting."""

    model: str | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_progress: bool | None = None
    max_tokens: Annotated[int, Field(ge=-1)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=1 << 31)] | None = None
    typical_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[int, Annotated[float, Field(allow_inf_nan=False)]] | None = None
    grammar: str | None = None
    response_format: ResponseFormat | None = None

    @field_validator("n")
    @classmethod
    def _one_answer(cls, n: int | None) -> int | None:
        if n not in (None, 1):
            raise ValueError("this server gives one answer for each request; leave n out, or send several requests")
        return n

    @field_validator("stop", mode="before")
    @classmethod
    def _texts(cls, stop: Any) -> Any:
        if stop is not None and not all(isinstance(one, str) for one in (stop if isinstance(stop, list) else [stop])):
            raise ValueError("must be a text, or a list of texts")
        return stop

    @field_validator("max_tokens", "max_completion_tokens", check_fields=False)
    @classmethod
    def _some_tokens(cls, max_tokens: int | None) -> int | None:
        if max_tokens == 0:
            raise ValueError("give 1 token or more, or -1 for no limit")
        return max_tokens

    def stops(self) -> list[str]:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in stops if stop]


class CompletionRequest(GenerationRequest):
    prompt: str | list[int] | list[str] | list[list[int]]
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None
    logprobs: Annotated[int, Field(ge=0, le=100)] | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _a_prompt(cls, prompt: Any) -> Any:
        kinds = {type(part) for part in prompt} if isinstance(prompt, list) else set()
        if not isinstance(prompt, str) and kinds not in ({str}, {int}, {list}):
            raise ValueError("must be a text, or a list of tokens")
        return prompt

    @field_validator("prompt")
    @classmethod
    def _one_prompt(cls, prompt: Any) -> Any:
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) > 1:
                raise ValueError("this server takes one prompt in each request; send several requests")
            return prompt[0]
        return prompt

    @field_validator("suffix")
    @classmethod
    def _no_suffix(cls, suffix: str | None) -> str | None:
        if suffix:
            raise ValueError("text after the answer is not supported; leave suffix out")
        return suffix

    @field_validator("best_of")
    @classmethod
    def _only_the_first(cls, best_of: int | None) -> int | None:
        if best_of not in (None, 1):
            raise ValueError("this server writes one answer for each request; leave best_of out")
        return best_of


class ChatRequest(GenerationRequest):
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=-1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None

    def callable_tools(self) -> list[str]:
        """Tools that the model itself may choose."""
        names = [tool["function"]["name"] for tool in self.tools or []]
        return names if self.tool_choice in (None, "auto") else []

    @field_validator("function_call", mode="before")
    @classmethod
    def _a_function_has_a_name(cls, choice: Any) -> Any:
        is_named = isinstance(choice, dict) and isinstance(choice.get("name"), str) and "function" not in choice
        if not is_named and choice not in (None, "none", "auto"):
            raise ValueError('must be "none", "auto" or {"name": ...}')
        return choice

    @field_validator("functions")
    @classmethod
    def _functions_have_names(cls, functions: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        for function in functions or []:
            if not isinstance(function.get("name"), str):
                raise ValueError('each function must be {"name": ..., "parameters": ...}')
        return functions

    @field_validator("tools")
    @classmethod
    def _tools_have_names(cls, tools: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        for tool in tools or []:
            function = tool.get("function")
            if tool.get("type") != "function" or not isinstance(function, dict) or not isinstance(function.get("name"), str):
                raise ValueError('each tool must be {"type": "function", "function": {"name": ..., "parameters": ...}}')
        return tools
