"""Version and UNSPECIFIED are rejected everywhere, with the path of the field."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message import Message

from esper_core import leyline
from esper_core.contract import MAY_BE_UNSPECIFIED
from esper_core.errors import ContractError
from esper_core.pb.esper.kasmina.v1 import kasmina_pb2
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2

pytestmark = pytest.mark.req("LEY-10")

MESSAGES = sorted(
    (
        value
        for value in vars(leyline).values()
        if isinstance(value, type) and issubclass(value, Message) and value is not Message
    ),
    key=lambda cls: cls.DESCRIPTOR.name,
)
VERSIONED = [cls for cls in MESSAGES if "version" in cls.DESCRIPTOR.fields_by_name]


def good_packet() -> leyline.SystemStatePacket:
    packet = leyline.SystemStatePacket(version=1, run_state=leyline.RUN_STATE_RUNNING)
    packet.seeds.add(stage=leyline.SEED_STAGE_TRAINING, allowed_blend_modes=[leyline.BLEND_MODE_CONVEX])
    return packet


def test_the_facade_shows_messages_and_enums() -> None:
    assert len(MESSAGES) > 50 and len(VERSIONED) > 15
    assert leyline.SeedStage.Name(leyline.SEED_STAGE_TRAINING) == "SEED_STAGE_TRAINING"


@pytest.mark.parametrize("cls", VERSIONED, ids=lambda cls: cls.DESCRIPTOR.name)
@pytest.mark.parametrize("version", [0, 2])
def test_every_versioned_message_is_refused_with_another_version(cls: type[Message], version: int) -> None:
    with pytest.raises(ContractError, match="speaks version 1") as caught:
        leyline.validate(cls(version=version))
    assert (caught.value.field, caught.value.allowed) == ("version", "1")


def enum_fields() -> list[tuple[type[Message], str]]:
    return [
        (cls, field.name)
        for cls in MESSAGES
        for field in cls.DESCRIPTOR.fields
        if field.enum_type is not None and not field.is_repeated and not field.has_presence
        and field.full_name not in MAY_BE_UNSPECIFIED
    ]  # fmt: skip


@pytest.mark.parametrize(("cls", "name"), enum_fields(), ids=lambda item: getattr(item, "__name__", item))
def test_every_enum_field_refuses_unspecified_and_unknown(cls: type[Message], name: str) -> None:
    message = cls()
    for field in cls.DESCRIPTOR.fields:
        if field.enum_type is not None and not field.is_repeated:
            setattr(message, field.name, max(field.enum_type.values_by_number))
    leyline.reject_unspecified(message)
    for number in (0, 99):
        setattr(message, name, number)
        with pytest.raises(ContractError, match=f"^{name} is ") as caught:
            leyline.reject_unspecified(message)
        assert caught.value.field == name and "UNSPECIFIED" not in caught.value.allowed


def test_nested_and_repeated_fields_are_walked() -> None:
    packet = good_packet()
    leyline.validate(packet)
    packet.seeds[0].allowed_blend_modes.append(leyline.BLEND_MODE_UNSPECIFIED)
    with pytest.raises(ContractError, match=r"seeds\[0\]\.allowed_blend_modes\[1\]"):
        leyline.validate(packet)
    decision = leyline.Decision(version=1, command=leyline.AdaptationCommand(version=3, type=leyline.COMMAND_TYPE_SEED))
    with pytest.raises(ContractError, match=r"command\.version"):
        leyline.validate(decision)


def test_optional_enums_count_only_when_present() -> None:
    outcome = leyline.CommandOutcome(accepted=True)
    leyline.validate(outcome)


def test_every_exception_exists() -> None:
    pool = descriptor_pool.Default()
    assert {kasmina_pb2.DESCRIPTOR.package, tolaria_pb2.DESCRIPTOR.package} == {"esper.kasmina.v1", "esper.tolaria.v1"}
    for name in MAY_BE_UNSPECIFIED:
        field = pool.FindFieldByName(name)
        assert field.enum_type is not None
