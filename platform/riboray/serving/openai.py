"""What OpenAI's clients ask for and read."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["OpenAIEmbedding", "OpenAIRequest", "OpenAIResponse"]


class OpenAIRequest(BaseModel):
    """As OpenAI's clients ask for embeddings; what riboray does not know is left out of account."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "rnabert", "input": "ACGU"}]}
    )
    input: str | list[str] = Field(description="One sequence, or many.")
    model: str = Field(description="Name of the model that is served.", examples=["rnabert"])
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, description="Only the model's own.")
    user: str | None = None


class OpenAIEmbedding(BaseModel):
    """One embedding."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class OpenAIResponse(BaseModel):
    """As OpenAI answers."""

    object: Literal["list"] = "list"
    data: list[OpenAIEmbedding]
    model: str
    usage: dict[str, Any]
