"""What the tests share: a connection to an agent, whole puts and gets, and errors as the contract promises them.

Written from `proto/` alone: nothing here knows how the agent works.
"""

import contextlib
import os
import queue
import re
import time
import unittest

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cairn.v1 import agent_pb2_grpc, data_path_pb2, data_path_pb2_grpc, keys_pb2_grpc, maintenance_pb2_grpc
from cairn.v1 import reason_pb2, repositories_pb2_grpc

# A call that takes longer has hung.
SECONDS = 30
FRAME_BYTES = 256 * 1024


class Agent:
    """A connection to the agent at an address such as the program itself takes."""

    def __init__(self, address):
        target = "unix:" + address[7:] if address.startswith("unix://") else address.removeprefix("http://")
        options = [
            # Whatever proxy the environment names leads nowhere from here.
            ("grpc.enable_http_proxy", 0),
            # For a Unix socket this client would name its path as the host, with escapes that HTTP/2 does not allow there.
            ("grpc.default_authority", "localhost"),
        ]
        self.channel = grpc.insecure_channel(target, options=options)
        self.data_path = data_path_pb2_grpc.DataPathStub(self.channel)
        self.agent = agent_pb2_grpc.AgentStub(self.channel)
        self.keys = keys_pb2_grpc.KeysStub(self.channel)
        self.maintenance = maintenance_pb2_grpc.MaintenanceStub(self.channel)
        self.repositories = repositories_pb2_grpc.RepositoriesStub(self.channel)

    def put(self, name, content, frame_bytes=FRAME_BYTES, **header):
        """A whole put; its result and the progress before it."""
        with Put(self) as put:
            put.begin(name, **header)
            for start in range(0, len(content), frame_bytes):
                put.send(data=content[start : start + frame_bytes])
            return put.finish(size=len(content))

    def get(self, name, **request):
        """What a get returns, checked as a client must: header, contiguous frames, the sum at the end."""
        answers = self.data_path.Get(data_path_pb2.GetRequest(name=name, **request), timeout=SECONDS)
        header, content, end = None, bytearray(), None
        for answer in answers:
            part = answer.WhichOneof("part")
            assert (header is None) == (part == "header") and end is None, f"{part} out of order"
            if part == "header":
                header = answer.header
            elif part == "data":
                assert answer.data.offset == header.offset + len(content), "a gap between frames"
                assert 0 < len(answer.data.data) <= 1 << 20
                content += answer.data.data
            else:
                end = answer.end
        assert end is not None, "the end is missing and no error was told"
        assert len(content) == header.length and crc32c(content) == end.crc32c
        return header, bytes(content)

    def stat(self, name, **request):
        return self.data_path.Stat(data_path_pb2.StatRequest(name=name, **request), timeout=SECONDS).object

    def delete(self, *names, **request):
        """The results of a delete."""
        request = data_path_pb2.DeleteRequest(names=names, **request)
        return self.data_path.Delete(request, timeout=SECONDS).results


class Put:
    """A put, message by message."""

    def __init__(self, agent):
        self.requests = queue.SimpleQueue()
        self.answers = agent.data_path.Put(iter(self.requests.get, None), timeout=SECONDS)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.half_close()
        self.answers.cancel()

    def send(self, **part):
        self.requests.put(data_path_pb2.PutRequest(**part))

    def half_close(self):
        self.requests.put(None)

    def begin(self, name, **header):
        """Sends the header and waits for leave to send data."""
        self.send(header=data_path_pb2.PutHeader(name=name, **header))
        answer = next(self.answers)
        assert answer.WhichOneof("part") == "accepted", answer
        return answer.accepted

    def finish(self, **finish):
        """Ends the data and waits for the result; with it the progress that was told."""
        self.send(finish=data_path_pb2.PutFinish(**finish))
        return self.result()

    def result(self):
        """Waits for the result or a refusal."""
        progress = []
        for answer in self.answers:
            if answer.WhichOneof("part") == "result":
                # Nothing follows, and the call ends well.
                assert next(self.answers, None) is None
                return answer.result, progress
            assert answer.WhichOneof("part") == "progress", answer
            progress.append((answer.progress.accepted_bytes, answer.progress.durable_bytes))
        raise AssertionError("the stream ended without a result and without an error")


class AgentTest(unittest.TestCase):
    """A test that talks to the agent of the environment, over TCP and over its Unix socket."""

    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.tcp = Agent(os.environ["CAIRN_TCP"])
        cls.unix = Agent(os.environ["CAIRN_UNIX"])

    @classmethod
    def tearDownClass(cls):
        cls.tcp.channel.close()
        cls.unix.channel.close()

    @contextlib.contextmanager
    def refused(self, reason):
        """The call in it must fail for this reason, with the code and the advice that the contract gives it."""
        with self.assertRaises(grpc.RpcError) as caught:
            yield
        self.check_refusal(caught.exception, reason)

    def eventually(self, what, holds):
        """Waits for something that the agent does by itself."""
        deadline = time.monotonic() + SECONDS
        while not holds():
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.01)

    def check_refusal(self, error, reason):
        code, again = REASONS[reason]
        self.assertEqual(error.code(), code, error)
        status = rpc_status.from_call(error)
        self.assertIsNotNone(status, f"no details: {error}")
        info = detail(status, error_details_pb2.ErrorInfo)
        self.assertIsNotNone(info, f"no ErrorInfo: {error}")
        self.assertEqual((info.domain, info.reason), ("cairn.v1", reason), error)
        retry = detail(status, error_details_pb2.RetryInfo)
        self.assertEqual(retry is not None, again, f"RetryInfo of {reason}: {retry}")
        if again:
            self.assertGreater(retry.retry_delay.ToNanoseconds(), 0)
        self.assertTrue(error.details() and "\n" not in error.details(), "not one line for a person")


def detail(status, kind):
    """The detail of this kind, if the status has one."""
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            return message
    return None


def reasons():
    """What `reason.proto` says about each value: its code, and whether the same request can succeed later."""
    with open(os.path.join(os.environ["CAIRN_PROTO"], "cairn/v1/reason.proto"), encoding="utf-8") as file:
        rows = re.findall(r"^  // ([A-Z_]+)(, again)?: [^\n]*\n  REASON_(\w+) = \d+;", file.read(), re.MULTILINE)
    table = {reason: (grpc.StatusCode[code], bool(again)) for code, again, reason in rows}
    named = {name.removeprefix("REASON_") for name in reason_pb2.Reason.keys()} - {"UNSPECIFIED"}
    assert set(table) == named, f"no row for {named ^ set(table)}"
    return table


def crc32c(content):
    """CRC-32C (Castagnoli), for the objects of tests."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def crc_table():
    table = list(range(256))
    for index in table:
        for _ in range(8):
            table[index] = (table[index] >> 1) ^ (0x82F63B78 if table[index] & 1 else 0)
    return table


CRC_TABLE = crc_table()
assert crc32c(b"123456789") == 0xE3069283
REASONS = reasons()
