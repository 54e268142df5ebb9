"""The calls that erase personal data: all that is stored about an address, or the content of one message."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from postroom.accounts.erasure import Erased, PersonalData
from postroom.core.api_key import sight_of
from postroom.store.erasure import Fate
from postroom.web.admin.call import AdminRequest, AnswerModel, Nothing, Reply, RequestModel, admin_call
from postroom.web.admin.values import Address, known_form


class Erasure(RequestModel):
    """Whose data is erased."""

    address: Address = Field(description="The address that messages went to")
    dry_run: bool = Field(
        default=False, description="true: nothing is changed; the answer says what would be"
    )


class MessagesErased(AnswerModel):
    """Messages to the address, by what has become of each."""

    erased: int
    cancelled: int = Field(description="They waited: they are cancelled, and erased")
    spared: int = Field(
        description="They wait for other recipients too: to them they go, and no more to this address"
    )
    sending: int = Field(description="They are being sent now; repeat the call for what is left")
    held: int = Field(description="Their account is on hold: nothing of it is deleted")


class ErasureAnswer(AnswerModel):
    """What was erased in the database, or with `dry_run` would be."""

    substitute: str = Field(description="What stands in the place of the address: a keyed hash of it")
    messages: MessagesErased
    elsewhere: dict[str, int] = Field(
        description="Rows beside the messages that named the address, by their kind"
    )
    complete: bool = Field(
        description="Whether nothing was left in the database: no message is under way, or kept by a hold"
    )
    files: bool = Field(
        description="Always false: email_log.txt and the folder of the inbox are files of each host, and may still name "
        "the address until `postroom erase ADDRESS` has run there"
    )


def _erase(asked: AdminRequest, body: Erasure) -> Reply:
    data = _data(asked)
    address = data.address(body.address)
    found = data.look(address) if body.dry_run else data.erase(address, asked.actor)
    return Reply(200, _answer(found))


def _answer(found: Erased) -> ErasureAnswer:
    counts = {fate.value: found.messages[fate] for fate in Fate}
    return ErasureAnswer(
        substitute=found.substitute,
        messages=MessagesErased.model_validate(counts),
        elsewhere=dict(found.elsewhere),
        complete=found.is_complete,
        files=False,
    )


def _erase_content(asked: AdminRequest, _: Nothing) -> Reply:
    _data(asked).erase_content(known_form(asked.id), asked.actor, sight_of(asked.principal.key))
    return Reply(204)


def _data(asked: AdminRequest) -> PersonalData:
    return PersonalData(asked.store, asked.shared.vault, asked.shared.clock)


PERSONAL_DATA_CALLS: Final = (
    admin_call(
        "POST /v1/erasures",
        "erasePerson",
        "Erase what the database holds about an address",
        Erasure,
        _erase,
        {200: ErasureAnswer},
        (409, 422),
    ),
    admin_call(
        "DELETE /v1/emails/{id}/content",
        "eraseContent",
        "Erase the content and the subject of a message that has ended",
        Nothing,
        _erase_content,
        {204: None},
        (404, 409),
    ),
)
