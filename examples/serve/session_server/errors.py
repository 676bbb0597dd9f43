"""What can go wrong, as sentences for the person who reads the log or the answer."""

from __future__ import annotations

from typing import ClassVar


class StartError(Exception):
    """The service cannot start."""


class PictureError(Exception):
    """A picture that cannot be classified."""

    status: ClassVar[int] = 422


class TooLarge(PictureError):  # noqa: N818 - the name of what the answer says
    """More bytes or pixels than are taken."""

    status = 413


class NoPicture(PictureError):  # noqa: N818
    """Not one of the formats."""

    status = 415
