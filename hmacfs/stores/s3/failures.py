"""What an error of the engine means for its caller, and what the operator is told."""

from __future__ import annotations

import enum

from hmacfs.cut import cut
from hmacfs.masking import mask
from hmacfs.stores.s3.answers import ErrorAnswer


class Kind(enum.Enum):
    """FAILED: the engine cannot do it now. REFUSED: somebody has to mend something. FOLDER: to an engine over a file
    system the name is a folder's, or below a file's."""

    FAILED = "failed"
    REFUSED = "refused"
    ABSENT = "absent"
    CONDITION = "condition"
    FULL = "full"
    NAME = "name"
    FOLDER = "folder"
    NO_UPLOAD = "no upload"
    INVALID_PART = "invalid part"
    RANGE = "range"


_BY_CODE = {
    **dict.fromkeys(
        (
            *("SlowDown", "SlowDownRead", "SlowDownWrite", "InternalError", "ServiceUnavailable", "Busy"),
            *("RequestTimeout", "OperationAborted", "TooManyRequests", "RequestLimitExceeded", "Throttling"),
        ),
        Kind.FAILED,
    ),
    **dict.fromkeys(
        (
            *("QuotaExceeded", "InsufficientStorage", "InsufficientCapacity", "XMinioStorageFull"),
            "XMinioAdminBucketQuotaExceeded",
        ),
        Kind.FULL,
    ),
    **dict.fromkeys(
        (*("KeyTooLongError", "KeyTooLong", "InvalidObjectName", "XMinioInvalidObjectName", "InvalidURI"),),
        Kind.NAME,
    ),
    **dict.fromkeys(
        (
            *("XMinioParentIsObject", "XMinioObjectExistsAsDirectory"),
            *("ExistingObjectIsDirectory", "ExistingObjectIsFile"),
        ),
        Kind.FOLDER,
    ),
    **dict.fromkeys(("PreconditionFailed", "ConditionalRequestConflict"), Kind.CONDITION),
    **dict.fromkeys(("InvalidPart", "InvalidPartOrder", "EntityTooSmall"), Kind.INVALID_PART),
    "InvalidRange": Kind.RANGE,
    "NoSuchUpload": Kind.NO_UPLOAD,
    "NoSuchKey": Kind.ABSENT,
    "NoSuchBucket": Kind.REFUSED,
}
_BY_STATUS = {
    **dict.fromkeys((408, 429, 500, 502, 503, 504), Kind.FAILED),
    404: Kind.ABSENT,
    412: Kind.CONDITION,
    416: Kind.RANGE,
    507: Kind.FULL,
}


def kind_of(answer: ErrorAnswer) -> Kind:
    """By the engine's word for it, else by the status."""
    return _BY_CODE.get(answer.code) or _BY_STATUS.get(answer.status, Kind.REFUSED)


class EngineError(Exception):
    """The engine's answer, for the log: the operation, the status, the code and its sentence. code: that word alone."""

    def __init__(self, operation: str, answer: ErrorAnswer) -> None:
        self.code = answer.code
        message = f"{operation}: {answer.status} {answer.code}".rstrip()
        if 300 <= answer.status < 400 or answer.code == "AuthorizationHeaderMalformed":
            message += ": the bucket is in another region or at another endpoint (S3Region, S3Endpoint)"
            message += f": {answer.region}" if answer.region else ""
        elif answer.message:
            message += f": {answer.message}"
        super().__init__(cut(mask(" ".join(message.split()))))
