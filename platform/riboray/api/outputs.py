"""What models and tokenizers return: a dict whose values are attributes, too."""

from __future__ import annotations

from typing import Any

__all__ = ["Output"]


class Output(dict[str, Any]):
    """Named values: ``output["logits"]``, ``output.logits``; ``output[0]``, the first that is set.

    What is None was not asked for, or the model has it not.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to(self, device: Any) -> Output:
        """Return the same with tensors on a device."""
        return Output({k: v.to(device) if hasattr(v, "to") else v for k, v in self.items()})

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the values that are set."""
        return tuple(value for value in self.values() if value is not None)
