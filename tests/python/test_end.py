"""An agent that is told to stop."""

import os
import signal

import grpc

from cairn.v1 import agent_pb2

from client import AgentTest, Put, SECONDS


class EndTest(AgentTest):
    def test_what_is_under_way_ends_well_and_watchers_are_told(self):
        watch = self.tcp.agent.WatchStatus(agent_pb2.WatchStatusRequest(), timeout=SECONDS)
        next(watch)
        with Put(self.tcp) as put:
            put.begin("last")
            put.send(data=b"last words")
            os.kill(int(os.environ["CAIRN_PID"]), signal.SIGTERM)
            with self.refused("SHUTTING_DOWN"):
                for _ in watch:
                    pass
            result, _ = put.finish(size=10)
            self.assertEqual(result.object.bytes, 10)
        # A new call is refused with this, or does not find anybody any more.
        with self.assertRaises(grpc.RpcError) as caught:
            self.tcp.stat("last")
        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
