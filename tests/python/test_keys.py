"""Keys that a core pushes: an agent without them, with them, and without them again. The tests run in the order of their names."""

import os
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cairn.v1 import agent_pb2, data_path_pb2, keys_pb2, maintenance_pb2, repositories_pb2

from client import AgentTest, Put, SECONDS

KEY_ID = os.environ["CAIRN_KEY_ID"]
KEY = bytes.fromhex(os.environ["CAIRN_KEY"])


class KeysTest(AgentTest):
    """Needs an agent with the provider `core`, the store of another that put "before", and roles for TCP that leave out admin."""

    def load(self, key_id=KEY_ID, key=KEY):
        return self.unix.keys.Load(keys_pb2.LoadRequest(key_id=key_id, key=key), timeout=SECONDS)

    def unload(self, key_id=KEY_ID):
        return self.unix.keys.Unload(keys_pb2.UnloadRequest(key_id=key_id), timeout=SECONDS)

    def keys(self):
        listed = self.unix.keys.List(keys_pb2.KeysListRequest(), timeout=SECONDS).keys
        return {key.key_id: key for key in listed}

    def status(self):
        return self.tcp.agent.GetStatus(agent_pb2.GetStatusRequest(), timeout=SECONDS).status

    def health(self, name):
        health = health_pb2_grpc.HealthStub(self.tcp.channel)
        return health.Check(health_pb2.HealthCheckRequest(service=name), timeout=SECONDS).status

    def everything_is_refused(self):
        with self.refused("KEYS_UNAVAILABLE"):
            self.tcp.get("before")
        with self.refused("KEYS_UNAVAILABLE"):
            self.tcp.stat("before")
        with self.refused("KEYS_UNAVAILABLE"):
            self.tcp.put("new", b"new")
        with self.refused("KEYS_UNAVAILABLE"):
            self.unix.repositories.Create(repositories_pb2.CreateRequest(name="new"), timeout=SECONDS)

    def test_1_without_a_key_nothing_is_read_or_written(self):
        key = self.keys()[KEY_ID]
        self.assertEqual((key.loaded, len(key.repository_ids)), (False, 1))
        self.everything_is_refused()
        self.assertEqual(self.status().mode, agent_pb2.MODE_KEYS_UNAVAILABLE)
        described = self.tcp.repositories.Describe(repositories_pb2.DescribeRequest(), timeout=SECONDS).repository
        self.assertEqual((described.name, described.open, described.key_id), ("default", False, KEY_ID))
        self.assertFalse(described.HasField("totals"))
        # It answers, or nobody could give it a key; the repository is not served.
        self.assertEqual(self.health(""), health_pb2.HealthCheckResponse.SERVING)
        not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
        self.eventually("it is told", lambda: self.health("repository/default") == not_serving)

    def test_2_a_key_that_does_not_fit_is_refused(self):
        for key_id, key, reason in [
            (KEY_ID, KEY[:31], "INVALID_ARGUMENT"),
            (KEY_ID, b"", "INVALID_ARGUMENT"),
            ("", KEY, "INVALID_ARGUMENT"),
            ("a b", KEY, "INVALID_ARGUMENT"),
            ("k" * 65, KEY, "INVALID_ARGUMENT"),
            (KEY_ID, bytes(32), "WRONG_KEY"),
        ]:
            with self.subTest(key_id=key_id, reason=reason), self.refused(reason):
                self.load(key_id, key)
        self.everything_is_refused()

    def test_3_with_its_key_a_repository_is_served(self):
        (repository,) = self.load().repository_ids
        self.load()  # Again is fine.
        key = self.keys()[KEY_ID]
        self.assertEqual((key.loaded, list(key.repository_ids)), (True, [repository]))
        self.assertEqual(self.tcp.get("before")[1], b"hello")
        self.tcp.put("after", b"after")
        with self.refused("WRONG_KEY"):
            self.load(key=bytes(32))
        with self.refused("UNSUPPORTED"):
            self.unix.keys.Rotate(keys_pb2.RotateRequest(key_id=KEY_ID), timeout=SECONDS)
        serving = health_pb2.HealthCheckResponse.SERVING
        self.eventually("the repository is served", lambda: self.health("repository/default") == serving)

    def test_4_another_key_serves_other_repositories(self):
        self.load("another", bytes(range(32)))
        with self.refused("INVALID_ARGUMENT"):
            self.load("another", bytes(32))
        request = repositories_pb2.CreateRequest(name="other", key_id="another")
        made = self.unix.repositories.Create(request, timeout=SECONDS).repository
        self.assertEqual(made.key_id, "another")
        self.tcp.put("x", b"x", repository="other")
        self.assertTrue(self.unload("another").was_loaded)
        with self.refused("KEYS_UNAVAILABLE"):
            self.tcp.get("x", repository="other")
        self.assertEqual(self.tcp.get("before")[1], b"hello")

    def test_5_who_may_not_is_refused(self):
        for call, request in [
            (self.tcp.repositories.Create, repositories_pb2.CreateRequest(name="mine")),
            (self.tcp.agent.SetMode, agent_pb2.SetModeRequest(read_only=True)),
            (self.tcp.maintenance.List, maintenance_pb2.MaintenanceListRequest()),
            (self.tcp.keys.Load, keys_pb2.LoadRequest(key_id=KEY_ID, key=KEY)),
        ]:
            with self.subTest(type(request).__name__), self.refused("PERMISSION_DENIED"):
                call(request, timeout=SECONDS)

    def test_6_a_stream_that_stands_still_is_ended(self):
        with Put(self.tcp) as put:
            put.begin("idle")
            with self.refused("STREAM_IDLE"):
                put.result()

    def test_7_without_the_key_streams_end_within_a_second(self):
        content = os.urandom(32 << 20)
        self.tcp.put("large", content)
        answers = self.tcp.data_path.Get(data_path_pb2.GetRequest(name="large"), timeout=SECONDS)
        self.assertEqual(next(answers).WhichOneof("part"), "header")
        with Put(self.tcp) as put:
            put.begin("under way")
            put.send(data=b"x")
            began = time.monotonic()
            self.assertTrue(self.unload().was_loaded)
            with self.refused("KEYS_UNAVAILABLE"):
                put.send(data=b"x")
                put.finish()
            with self.refused("KEYS_UNAVAILABLE"):
                received = sum(len(answer.data.data) for answer in answers)
                self.fail(f"{received} of {len(content)} bytes came without a key, and no error")
            self.assertLess(time.monotonic() - began, 5)
        self.everything_is_refused()
        self.assertFalse(self.unload().was_loaded)
        self.load()
        with self.refused("OBJECT_NOT_FOUND"):
            self.tcp.stat("under way")
        self.assertEqual(self.tcp.get("after")[1], b"after")
