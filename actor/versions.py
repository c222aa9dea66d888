"""Versions of the weights as they come over the wire, for whoever follows the newest."""

import time
from collections.abc import Sequence

from common import codec
from common.codec import Frame
from common.errors import MalformedMessage, Reason, WireError
from common.messages import Weights
from common.rejections import Rejections


def newer_weights(
    frames: Sequence[Frame], newest: tuple[int, int], rejections: Rejections
) -> Weights | None:
    """The version in a message's frames, without its topic; None where it is not newer than the
    `newest` (epoch, version). What is no version is counted."""
    try:
        message = codec.decode(frames)
        if not isinstance(message, Weights):
            raise MalformedMessage(f"a {message.kind} under weights", Reason.UNKNOWN_KIND)
    except WireError as error:
        rejections.count(error, time.monotonic())
        return None
    return message if (message.epoch, message.version) > newest else None
