"""The base of every API object, and cross-field rules that hold alike on the API server (CEL) and in Python."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError


@dataclass(frozen=True)
class Rule:
    """One condition over several fields of an object, said once for both sides.

    `cel` runs on the API server, `holds` in Python; both see the object with its defaults filled in. `field` is the field to
    blame, in the spelling of the YAML and relative to the object (`model.precision`).
    """

    name: str
    field: str
    message: str
    cel: str
    holds: Callable[[Any], object]  # by its truth

    def as_validation(self) -> dict[str, str]:
        """Return the entry of `x-kubernetes-validations`."""
        return {"rule": self.cel, "message": self.message, "fieldPath": f".{self.field}", "reason": "FieldValueInvalid"}

    def as_error(self, subject: BaseModel) -> InitErrorDetails:
        """Return the error that pydantic reports when `subject` breaks this rule."""
        return InitErrorDetails(
            type=PydanticCustomError("rule", "{message}", {"message": self.message, "rule": self.name}),
            loc=tuple(self.field.split(".")),
            input=subject,
        )


class ApiModel(BaseModel):
    """An object of the API: frozen, closed, snake_case in Python and camelCase in YAML, with its cross-field rules."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        """Treat null as absent, as the API server does for fields that are not nullable."""
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        broken = [rule.as_error(self) for rule in self.rules if not rule.holds(self)]
        if broken:
            raise ValidationError.from_exception_data(type(self).__name__, broken)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        if cls.rules:
            handler.resolve_ref_schema(schema)["x-kubernetes-validations"] = [rule.as_validation() for rule in cls.rules]
        return schema
