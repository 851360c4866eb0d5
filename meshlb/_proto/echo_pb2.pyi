from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EchoRequest(_message.Message):
    __slots__ = ("payload", "delay_s", "fail_code", "fail_details", "count", "interval_s")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    DELAY_S_FIELD_NUMBER: _ClassVar[int]
    FAIL_CODE_FIELD_NUMBER: _ClassVar[int]
    FAIL_DETAILS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    payload: str
    delay_s: float
    fail_code: int
    fail_details: str
    count: int
    interval_s: float
    def __init__(self, payload: _Optional[str] = ..., delay_s: _Optional[float] = ..., fail_code: _Optional[int] = ..., fail_details: _Optional[str] = ..., count: _Optional[int] = ..., interval_s: _Optional[float] = ...) -> None: ...

class EchoReply(_message.Message):
    __slots__ = ("payload", "pod", "version", "sequence", "authority", "metadata")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    payload: str
    pod: str
    version: str
    sequence: int
    authority: str
    metadata: _containers.RepeatedCompositeFieldContainer[MetadataEntry]
    def __init__(self, payload: _Optional[str] = ..., pod: _Optional[str] = ..., version: _Optional[str] = ..., sequence: _Optional[int] = ..., authority: _Optional[str] = ..., metadata: _Optional[_Iterable[_Union[MetadataEntry, _Mapping]]] = ...) -> None: ...

class MetadataEntry(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
