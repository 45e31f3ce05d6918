"""Status, modes, repositories, maintenance, health, reflection."""

import queue
import threading

import grpc
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from cairn.v1 import agent_pb2, agent_pb2_grpc, data_path_pb2, keys_pb2, maintenance_pb2, reason_pb2, repositories_pb2

from client import AgentTest, SECONDS

SERVICES = {
    f"cairn.v1.{name}": file.DESCRIPTOR.services_by_name[name]
    for name, file in [
        ("Agent", agent_pb2),
        ("DataPath", data_path_pb2),
        ("Keys", keys_pb2),
        ("Maintenance", maintenance_pb2),
        ("Repositories", repositories_pb2),
    ]
}
SERVING = health_pb2.HealthCheckResponse.SERVING


class StatusTest(AgentTest):
    def status(self):
        return self.tcp.agent.GetStatus(agent_pb2.GetStatusRequest(), timeout=SECONDS).status

    def set_read_only(self, read_only):
        return self.tcp.agent.SetMode(agent_pb2.SetModeRequest(read_only=read_only), timeout=SECONDS).status

    def watch(self):
        return Watch(self.tcp.agent.WatchStatus(agent_pb2.WatchStatusRequest(), timeout=SECONDS))

    def totals(self):
        request = repositories_pb2.DescribeRequest()
        return self.tcp.repositories.Describe(request, timeout=SECONDS).repository.totals

    def test_the_status_tells_room_and_totals(self):
        self.tcp.put("status", b"status")
        status = self.status()
        self.assertIn(status.mode, [agent_pb2.MODE_OPTIMAL, agent_pb2.MODE_LOW_CAPACITY])
        self.assertTrue(status.boot_id)
        self.assertGreater(status.since.seconds, 1_600_000_000)
        capacity = status.capacity
        self.assertGreater(capacity.used_bytes, 0)
        self.assertTrue(0 < capacity.free_bytes < capacity.total_bytes)
        (repository,) = [one for one in status.repositories if one.name == "default"]
        self.assertTrue(repository.open and repository.totals.objects > 0 and repository.totals.stored_bytes > 0)
        view = status.backing_store
        self.assertEqual(view.phase, "Ready")
        types = [condition.type for condition in view.conditions]
        self.assertEqual(sorted(types), ["Available", "Degraded", "Progressing", "Upgradeable"])
        self.assertLessEqual({condition.status for condition in view.conditions}, {"True", "False", "Unknown"})

    def test_read_only_refuses_puts_and_nothing_else(self):
        self.tcp.put("mode/kept", b"kept")
        self.tcp.put("mode/gone", b"gone")
        before = self.status()
        self.addCleanup(self.set_read_only, False)
        with self.watch() as watch:
            self.assertEqual(next(watch).mode, before.mode)
            self.assertEqual(self.set_read_only(True).mode, agent_pb2.MODE_READ_ONLY)
            status = watch.until(lambda status: status.mode == agent_pb2.MODE_READ_ONLY)
            self.assertGreater(status.sequence, before.sequence)
            self.assertEqual(status.boot_id, before.boot_id)
            self.assertEqual(status.causes[0].mode, agent_pb2.MODE_READ_ONLY)
            self.assertTrue(status.causes[0].code and status.causes[0].message)
            with self.refused("READ_ONLY"):
                self.tcp.put("mode/new", b"new")
            self.assertEqual(self.tcp.get("mode/kept")[1], b"kept")
            self.assertEqual(self.tcp.delete("mode/gone")[0].outcome, data_path_pb2.DELETE_OUTCOME_DELETED)
            self.set_read_only(False)
            status = watch.until(lambda status: status.mode == before.mode)
            self.assertGreater(status.sequence, before.sequence + 1)
        self.tcp.put("mode/new", b"new")

    def test_a_head_tells_a_store_that_was_set_back(self):
        self.tcp.put("head", b"1")
        totals = self.totals()

        def check(log_number, head):
            request = agent_pb2.CheckHeadRequest(log_number=log_number, head=head)
            return self.tcp.agent.CheckHead(request, timeout=SECONDS)

        self.assertTrue(check(totals.log_number, totals.head).found)
        self.tcp.put("head", b"2")
        answer = check(totals.log_number, totals.head)
        self.assertTrue(answer.found and answer.newest_log_number > totals.log_number)
        with self.refused("ROLLED_BACK"):
            check(totals.log_number, bytes(32))
        with self.refused("ROLLED_BACK"):
            check(self.totals().log_number + 1_000, totals.head)
        with self.refused("INVALID_ARGUMENT"):
            check(totals.log_number, b"short")

    def test_capabilities_are_those_of_the_contract(self):
        able = self.tcp.agent.GetCapabilities(agent_pb2.GetCapabilitiesRequest(), timeout=SECONDS)
        limits = (able.max_frame_bytes, able.delete_names_max, able.list_page_max)
        self.assertEqual(limits, (1 << 20, 1_000, 10_000))
        self.assertIn("directory", able.backends)
        self.assertIn(agent_pb2.OPERATION_KIND_RECLAIM, able.operations)
        self.assertTrue(able.version and able.budget_bytes and able.streams_max)
        self.assertEqual(able.key_provider, "file")


class Watch:
    """The statuses of a watcher, read by a thread, so that one can wait for a certain one."""

    def __init__(self, answers):
        self.answers, self.statuses = answers, queue.SimpleQueue()
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        try:
            for answer in self.answers:
                self.statuses.put(answer.status)
        except grpc.RpcError as error:
            self.statuses.put(error)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.answers.cancel()
        self.reader.join()

    def __next__(self):
        status = self.statuses.get(timeout=SECONDS)
        if isinstance(status, grpc.RpcError):
            raise status
        return status

    def until(self, wanted):
        while not wanted(status := next(self)):
            pass
        return status


class RepositoriesTest(AgentTest):
    def create(self, name, **request):
        request = repositories_pb2.CreateRequest(name=name, **request)
        return self.tcp.repositories.Create(request, timeout=SECONDS).repository

    def test_a_repository_is_made_shown_and_removed(self):
        made = self.create("other", chunk_avg_bytes=1 << 18, compression_level=3)
        self.assertEqual((made.name, made.open, len(made.id)), ("other", True, 32))
        self.assertEqual((made.parameters.chunk_avg_bytes, made.parameters.compression_level), (1 << 18, 3))
        self.tcp.put("x", b"by name", repository="other")
        self.assertEqual(self.tcp.get("x", repository=made.id)[1], b"by name")
        with self.refused("OBJECT_NOT_FOUND"):
            self.tcp.stat("x")
        listed = self.tcp.repositories.List(repositories_pb2.RepositoriesListRequest(), timeout=SECONDS).repositories
        names = [repository.name for repository in listed]
        self.assertTrue({"default", "other"} <= set(names) and names == sorted(names))
        with self.refused("REPOSITORY_EXISTS"):
            self.create("other")
        self.remove(made)

    def remove(self, made):
        delete = repositories_pb2.RepositoriesDeleteRequest
        right = delete(repository="other", confirm=made.id)
        with self.refused("PERMISSION_DENIED"):
            self.tcp.repositories.Delete(right, timeout=SECONDS)
        with self.refused("INVALID_ARGUMENT"):
            self.unix.repositories.Delete(delete(repository="other", confirm="other"), timeout=SECONDS)
        self.unix.repositories.Delete(right, timeout=SECONDS)
        with self.refused("REPOSITORY_NOT_FOUND"):
            self.tcp.stat("x", repository="other")
        with self.refused("REPOSITORY_NOT_FOUND"):
            self.tcp.repositories.Describe(repositories_pb2.DescribeRequest(repository=made.id), timeout=SECONDS)

    def test_what_makes_no_sense_is_refused(self):
        for name in ["", "UPPER", "-dash", "a" * 64, "a/b"]:
            with self.subTest(name), self.refused("INVALID_NAME"):
                self.create(name)
        for request in [{"chunk_avg_bytes": 1000}, {"chunk_avg_bytes": 1 << 30}, {"compression_level": 23}]:
            with self.subTest(request), self.refused("INVALID_ARGUMENT"):
                self.create("wrong", **request)


class MaintenanceTest(AgentTest):
    def start(self, agent=None, **request):
        request = maintenance_pb2.StartRequest(**request)
        return (agent or self.tcp).maintenance.Start(request, timeout=SECONDS).operation

    def watch(self, operation):
        """How it stands whenever that changes, to its end."""
        request = maintenance_pb2.WatchRequest(operation_id=operation.id)
        return [answer.operation for answer in self.tcp.maintenance.Watch(request, timeout=SECONDS)]

    def done(self, operation):
        states = self.watch(operation)
        self.assertEqual(states[-1].state, maintenance_pb2.OPERATION_STATE_DONE, states[-1])
        self.assertGreaterEqual(states[-1].ended.ToNanoseconds(), states[-1].started.ToNanoseconds())
        return states[-1]

    def test_reclaim_gives_back_what_was_deleted(self):
        self.tcp.put("reclaim", bytes(range(256)) * 4_000 + b"reclaim")
        self.tcp.delete("reclaim")
        self.done(self.start(reclaim=maintenance_pb2.ReclaimWork(dry_run=True)))
        operation = self.start(reclaim=maintenance_pb2.ReclaimWork())
        self.assertEqual(operation.kind, agent_pb2.OPERATION_KIND_RECLAIM)
        ended = self.done(operation)
        self.assertEqual(ended.WhichOneof("report"), "reclaim")
        # It stays known, can be watched again, and cancelling what has ended is fine.
        self.assertEqual(self.watch(operation), [ended])
        listed = self.tcp.maintenance.List(maintenance_pb2.MaintenanceListRequest(), timeout=SECONDS).operations
        self.assertIn(ended, listed)
        request = maintenance_pb2.CancelRequest(operation_id=operation.id)
        self.assertEqual(self.tcp.maintenance.Cancel(request, timeout=SECONDS).operation, ended)

    def test_a_rebuilt_catalog_knows_the_same_objects(self):
        self.tcp.put("rebuild", b"rebuild")
        ended = self.done(self.start(rebuild=maintenance_pb2.RebuildWork()))
        self.assertGreater(ended.rebuild.objects, 0)
        self.assertEqual(self.tcp.get("rebuild")[1], b"rebuild")

    def test_a_scrub_is_watched_and_reports(self):
        self.tcp.put("scrub", bytes(range(256)) * 4_000 + b"scrub")
        full = maintenance_pb2.SCRUB_DEPTH_FULL
        operation = self.start(scrub=maintenance_pb2.ScrubWork(depth=full, rate_bytes=1 << 20))
        self.assertEqual(operation.kind, agent_pb2.OPERATION_KIND_SCRUB)
        states = self.watch(operation)
        done = [state.progress.bytes_done for state in states if state.HasField("progress")]
        self.assertEqual(done, sorted(done))
        ended = states[-1]
        self.assertEqual(ended.state, maintenance_pb2.OPERATION_STATE_DONE, ended)
        report = ended.scrub
        self.assertTrue(report.sound and not report.damage and not report.lists_truncated)
        self.assertEqual((report.depth, report.cursor), (full, ""))
        self.assertTrue(report.bytes_read > 0 and report.packs > 0 and report.blobs > 0)
        self.assertEqual(done[-1], report.bytes_read)
        damaged = self.tcp.data_path.ListDamaged(data_path_pb2.ListDamagedRequest(), timeout=SECONDS)
        self.assertEqual((list(damaged.objects), damaged.next_page_token), ([], b""))

    def test_a_cancelled_scrub_tells_where_to_go_on(self):
        self.tcp.put("scrub/slices", b"slices")
        structure = maintenance_pb2.SCRUB_DEPTH_STRUCTURE
        work = maintenance_pb2.ScrubWork(depth=structure, limit_bytes=1)
        cursor = self.done(self.start(scrub=work)).scrub.cursor
        self.assertTrue(cursor)
        work = maintenance_pb2.ScrubWork(depth=structure, cursor=cursor, rate_bytes=1)
        operation = self.start(scrub=work)
        with self.refused("LIMIT_EXCEEDED"):
            self.start(scrub=work)
        request = maintenance_pb2.CancelRequest(operation_id=operation.id)
        self.tcp.maintenance.Cancel(request, timeout=SECONDS)
        ended = self.watch(operation)[-1]
        self.assertEqual(ended.state, maintenance_pb2.OPERATION_STATE_CANCELLED)
        self.assertEqual((ended.scrub.cursor, ended.progress.cursor), (cursor, cursor))
        rest = self.done(self.start(scrub=maintenance_pb2.ScrubWork(depth=structure, cursor=cursor)))
        self.assertEqual(rest.scrub.cursor, "")

    def test_what_is_not_done_is_said(self):
        with self.refused("UNSUPPORTED"):
            self.start(reseal=maintenance_pb2.ResealWork())

    def test_what_makes_no_sense_is_refused(self):
        reclaim = maintenance_pb2.ReclaimWork()
        with self.refused("INVALID_ARGUMENT"):
            self.start()
        with self.refused("REPOSITORY_NOT_FOUND"):
            self.start(repository="none", reclaim=reclaim)
        with self.refused("INVALID_ARGUMENT"):
            self.start(scrub=maintenance_pb2.ScrubWork(cursor="somewhere"))
        with self.refused("PERMISSION_DENIED"):
            self.start(wipe=maintenance_pb2.WipeWork(confirm="x"))
        with self.refused("INVALID_ARGUMENT"):
            self.start(self.unix, wipe=maintenance_pb2.WipeWork(confirm="x"))
        with self.refused("INVALID_ARGUMENT"):
            self.start(evacuate=maintenance_pb2.EvacuateWork(to="nowhere://"))
        with self.refused("OPERATION_NOT_FOUND"):
            self.watch(maintenance_pb2.Operation(id="none"))
        with self.refused("OPERATION_NOT_FOUND"):
            self.tcp.maintenance.Cancel(maintenance_pb2.CancelRequest(operation_id="none"), timeout=SECONDS)


class StandardTest(AgentTest):
    """What every gRPC tool relies on."""

    def test_health(self):
        health = health_pb2_grpc.HealthStub(self.tcp.channel)
        for name in ["", "cairn.v1.DataPath", "repository/default"]:
            with self.subTest(name):
                request = health_pb2.HealthCheckRequest(service=name)
                self.eventually("served", lambda: health.Check(request, timeout=SECONDS).status == SERVING)
                watch = health.Watch(request, timeout=SECONDS)
                self.assertEqual(next(watch).status, SERVING)
                watch.cancel()
        with self.assertRaises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="none"), timeout=SECONDS)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_reflection_shows_the_contract(self):
        database = ProtoReflectionDescriptorDatabase(self.tcp.channel)
        self.assertLessEqual(set(SERVICES) | {"grpc.health.v1.Health"}, set(database.get_services()))
        pool = descriptor_pool.DescriptorPool(database)
        for name, service in SERVICES.items():
            with self.subTest(name):
                shown = pool.FindServiceByName(name)
                self.assertEqual(signatures(shown), signatures(service))
                for method in shown.methods:
                    self.assertEqual(fields(method.input_type), fields(service.methods_by_name[method.name].input_type))
        # Not reached by any message, but the key to every error.
        reasons = pool.FindFileByName("cairn/v1/reason.proto").enum_types_by_name["Reason"]
        self.assertEqual(reasons.values_by_name.keys(), reason_pb2.Reason.DESCRIPTOR.values_by_name.keys())

    def test_a_call_that_does_not_exist(self):
        call = self.tcp.channel.unary_unary("/cairn.v1.Agent/Fly", lambda _: b"", lambda answer: answer)
        with self.refused("UNSUPPORTED"):
            call(None, timeout=SECONDS)

    def test_keys_are_refused_on_plaintext(self):
        for call, request in [
            (self.tcp.keys.Load, keys_pb2.LoadRequest(key_id="k", key=bytes(32))),
            (self.tcp.keys.Unload, keys_pb2.UnloadRequest(key_id="k")),
            (self.tcp.keys.List, keys_pb2.KeysListRequest()),
            (self.tcp.keys.Rotate, keys_pb2.RotateRequest(key_id="k")),
        ]:
            with self.subTest(type(request).__name__), self.refused("PERMISSION_DENIED"):
                call(request, timeout=SECONDS)

    def test_keys_in_files_are_not_pushed(self):
        (key,) = self.unix.keys.List(keys_pb2.KeysListRequest(), timeout=SECONDS).keys
        self.assertTrue(key.key_id and key.loaded and key.loaded_at.seconds and key.repository_ids)
        with self.refused("UNSUPPORTED"):
            self.unix.keys.Load(keys_pb2.LoadRequest(key_id="k", key=bytes(32)), timeout=SECONDS)
        with self.refused("UNSUPPORTED"):
            self.unix.keys.Unload(keys_pb2.UnloadRequest(key_id=key.key_id), timeout=SECONDS)


def signatures(service):
    return {
        method.name: (
            method.input_type.full_name,
            method.client_streaming,
            method.output_type.full_name,
            method.server_streaming,
        )
        for method in service.methods
    }


def fields(message):
    return {field.name: (field.number, field.type, field.is_repeated) for field in message.fields}
