"""Objects in, objects out, and everything that is refused."""

import glob
import os
import random

from cairn.v1 import data_path_pb2, repositories_pb2

from client import AgentTest, Put, SECONDS, crc32c

Precondition = data_path_pb2.Precondition
CREATE_ONLY = Precondition(create_only=True)
LARGE = random.Random(1).randbytes(3_000_001)


def span(offset, length=0):
    return data_path_pb2.ByteRange(span=data_path_pb2.ByteRange.Span(offset=offset, length=length))


def last(count):
    return data_path_pb2.ByteRange(last_bytes=count)


class PutTest(AgentTest):
    def not_there(self, name):
        with self.refused("OBJECT_NOT_FOUND"):
            self.tcp.stat(name)

    def test_what_is_put_comes_back(self):
        for agent, name, content in [
            (self.tcp, "put/empty", b""),
            (self.unix, "put/one", b"x"),
            (self.tcp, "put/ümlaut/名前", LARGE[:70_000]),
            (self.unix, "put/large", LARGE),
        ]:
            with self.subTest(name):
                result, _ = agent.put(name, content)
                info = result.object
                self.assertEqual((info.name, info.bytes, info.crc32c), (name, len(content), crc32c(content)))
                self.assertGreater(info.created.seconds, 1_600_000_000)
                header, returned = agent.get(name)
                self.assertEqual(returned, content)
                self.assertEqual((header.offset, header.length, header.object), (0, len(content), info))
                self.assertEqual(agent.stat(name), info)

    def test_what_is_known_already_is_not_stored_again(self):
        first, _ = self.tcp.put("put/known/1", LARGE[1_000_000:2_000_000])
        second, _ = self.tcp.put("put/known/2", LARGE[1_000_000:2_000_000])
        self.assertGreater(first.new_chunks, 0)
        self.assertEqual((second.new_chunks, second.new_bytes), (0, 0))
        self.assertLess(second.stored_bytes, 100_000)
        self.assertGreater(second.object.version, first.object.version)

    def test_frames_of_any_size_make_one_object(self):
        content = LARGE[:300_000]
        for frame_bytes in [1_000, 65_536, 1 << 20]:
            result, _ = self.tcp.put("put/frames", content, frame_bytes)
            self.assertEqual(result.object.crc32c, crc32c(content))

    def test_progress_never_decreases(self):
        result, progress = self.tcp.put("put/progress", LARGE * 10)
        self.assertEqual(result.object.bytes, len(LARGE) * 10)
        for (accepted, durable), (more_accepted, more_durable) in zip(progress, progress[1:]):
            self.assertTrue(accepted <= more_accepted and durable <= more_durable, progress)
        for accepted, durable in progress:
            self.assertTrue(durable <= accepted <= len(LARGE) * 10, progress)

    def test_leave_comes_before_data(self):
        with Put(self.tcp) as put:
            accepted = put.begin("put/leave")
            self.assertEqual((accepted.resume_offset, accepted.max_frame_bytes), (0, 1 << 20))
            self.assertTrue(0 < len(accepted.upload_id) <= 64)
            put.finish()

    def test_metadata_comes_back(self):
        metadata = {"content-type": "text/plain", "x": "ü", "empty": ""}
        result, _ = self.tcp.put("put/metadata", b"m", metadata=metadata)
        self.assertEqual(dict(result.object.metadata), metadata)
        self.assertEqual(dict(self.tcp.stat("put/metadata").metadata), metadata)
        with self.refused("INVALID_ARGUMENT"):
            self.tcp.put("put/metadata", b"m", metadata={"x": "y" * 17_000})

    def test_a_put_id_makes_a_retry_return_the_first_result(self):
        put_id = bytes(range(16))
        first, _ = self.tcp.put("put/id", LARGE[:500], put_id=put_id)
        again, _ = self.tcp.put("put/id", LARGE[:500], put_id=put_id)
        self.assertEqual(again.object, first.object)
        with self.refused("PUT_ID_REUSED"):
            self.tcp.put("put/id/other", b"x", put_id=put_id)
        self.not_there("put/id/other")
        with self.refused("INVALID_ARGUMENT"):
            self.tcp.put("put/id/short", b"x", put_id=b"short")

    def test_breaking_off_leaves_nothing(self):
        put = Put(self.tcp)
        put.begin("put/broken")
        put.send(data=LARGE[:100_000])
        put.answers.cancel()
        put.half_close()
        self.not_there("put/broken")

    def test_closing_without_finish_leaves_nothing(self):
        with Put(self.tcp) as put:
            put.begin("put/unfinished")
            put.send(data=b"x")
            put.half_close()
            with self.refused("INVALID_ARGUMENT"):
                put.result()
        self.not_there("put/unfinished")

    def test_what_did_not_arrive_as_it_was_sent_is_refused(self):
        for finish in [{"size": 4}, {"size": 0}, {"crc32c": crc32c(b"abd")}, {"size": 3, "crc32c": 0}]:
            with self.subTest(finish), Put(self.tcp) as put:
                put.begin("put/wrong")
                put.send(data=b"abc")
                with self.refused("INVALID_ARGUMENT"):
                    put.finish(**finish)
                self.not_there("put/wrong")
        with Put(self.tcp) as put:
            put.begin("put/right")
            put.send(data=b"abc")
            put.finish(size=3, crc32c=crc32c(b"abc"))

    def test_parts_out_of_order_are_refused(self):
        header = data_path_pb2.PutHeader(name="put/order")
        finish = data_path_pb2.PutFinish()
        for parts in [
            [{"data": b"x"}],
            [{"finish": finish}],
            [{}],
            [{"header": header}, {"header": header}],
            [{"header": header}, {}],
        ]:
            with self.subTest(parts), Put(self.tcp) as put:
                for part in parts:
                    put.send(**part)
                with self.refused("INVALID_ARGUMENT"):
                    for answer in put.answers:
                        self.assertEqual(answer.WhichOneof("part"), "accepted")
        self.not_there("put/order")

    def test_a_frame_that_is_too_large_is_refused(self):
        for size in [(1 << 20) + 1, 3 << 20]:
            with self.subTest(size), Put(self.tcp) as put:
                put.begin("put/frame")
                put.send(data=bytes(size))
                with self.refused("INVALID_ARGUMENT"):
                    put.result()
        self.not_there("put/frame")

    def test_preconditions_are_held_before_data_is_sent(self):
        first, _ = self.tcp.put("put/once", b"1", precondition=CREATE_ONLY)
        # No data is sent here: the refusal answers the header.
        for precondition, reason in [
            (CREATE_ONLY, "OBJECT_EXISTS"),
            (Precondition(if_version=first.object.version + 1), "VERSION_MISMATCH"),
        ]:
            with Put(self.tcp) as put, self.refused(reason):
                put.begin("put/once", precondition=precondition)
        with Put(self.tcp) as put, self.refused("VERSION_MISMATCH"):
            put.begin("put/never", precondition=Precondition(if_version=first.object.version))
        right = Precondition(if_version=first.object.version)
        second, _ = self.tcp.put("put/once", b"2", precondition=right)
        self.assertGreater(second.object.version, first.object.version)
        self.assertEqual(self.tcp.get("put/once")[1], b"2")

    def test_of_two_that_race_one_wins(self):
        with Put(self.tcp) as one, Put(self.unix) as other:
            one.begin("put/race", precondition=CREATE_ONLY)
            other.begin("put/race", precondition=CREATE_ONLY)
            one.send(data=b"one")
            other.send(data=b"other")
            one.finish()
            with self.refused("OBJECT_EXISTS"):
                other.finish()
        self.assertEqual(self.tcp.get("put/race")[1], b"one")

    def test_names_have_1_to_1024_bytes(self):
        self.tcp.put("n" * 1024, b"x")
        self.assertEqual(self.tcp.delete("n" * 1024)[0].outcome, data_path_pb2.DELETE_OUTCOME_DELETED)
        for name in ["", "n" * 1025, "ü" * 513]:
            with self.subTest(name[:3]):
                with self.refused("INVALID_NAME"):
                    self.tcp.put(name, b"x")
                with self.refused("INVALID_NAME"):
                    self.tcp.stat(name)


class GetTest(AgentTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.version = cls.tcp.put("get/large", LARGE)[0].object.version
        cls.tcp.put("get/empty", b"")

    def test_ranges(self):
        length = len(LARGE)
        for part, first, end in [
            (None, 0, length),
            (span(0), 0, length),
            (span(0, 1), 0, 1),
            (span(1_234_567, 100_000), 1_234_567, 1_334_567),
            (span(length - 1), length - 1, length),
            (span(length - 5, 5), length - 5, length),
            (last(1), length - 1, length),
            (last(1_500_000), length - 1_500_000, length),
        ]:
            with self.subTest(str(part)):
                header, content = self.tcp.get("get/large", range=part)
                self.assertEqual((header.offset, header.length), (first, end - first))
                self.assertTrue(content == LARGE[first:end])
        self.assertEqual(self.tcp.get("get/empty")[1], b"")

    def test_what_lies_outside_is_refused(self):
        length = len(LARGE)
        for part in [span(length), span(length - 1, 2), span(0, length + 1), span(2**64 - 1, 2), last(0)]:
            with self.subTest(str(part)), self.refused("INVALID_RANGE"):
                self.tcp.get("get/large", range=part)
        with self.refused("INVALID_RANGE"):
            self.tcp.get("get/empty", range=last(1))

    def test_a_version_can_be_asked_for(self):
        header, _ = self.tcp.get("get/large", if_version=self.version, range=span(0, 1))
        self.assertEqual(header.object.version, self.version)
        with self.refused("VERSION_MISMATCH"):
            self.tcp.get("get/large", if_version=self.version + 1)

    def test_the_version_is_fixed_for_the_stream(self):
        self.tcp.put("get/fixed", LARGE)
        answers = self.tcp.data_path.Get(data_path_pb2.GetRequest(name="get/fixed"), timeout=SECONDS)
        version = next(answers).header.object.version
        self.tcp.put("get/fixed", b"another")
        self.tcp.delete("get/fixed")
        content = b"".join(answer.data.data for answer in answers)
        self.assertTrue(content == LARGE, f"version {version} changed under its reader")

    def test_what_is_not_there(self):
        with self.refused("OBJECT_NOT_FOUND"):
            self.tcp.get("get/none")
        with self.refused("OBJECT_NOT_FOUND"):
            self.tcp.data_path.Verify(data_path_pb2.VerifyRequest(name="get/none"), timeout=SECONDS)


class RestTest(AgentTest):
    """Listing, deleting, copying, verifying."""

    def names(self, prefix, page_size):
        """All names, and the lengths of the pages they came in."""
        names, pages, token = [], [], b""
        while True:
            request = data_path_pb2.ListRequest(prefix=prefix, page_size=page_size, page_token=token)
            page = self.tcp.data_path.List(request, timeout=SECONDS)
            names += [info.name for info in page.objects]
            pages.append(len(page.objects))
            token = page.next_page_token
            if not token:
                return names, pages

    def test_a_listing_has_every_object_once(self):
        wanted = [f"list/{index:02}" for index in range(25)]
        for name in wanted:
            self.tcp.put(name, name.encode())
        self.tcp.put("lis", b"")
        for page_size in [0, 1, 10, 25, 10_000]:
            names, pages = self.names("list/", page_size)
            self.assertEqual(sorted(names), wanted)
            self.assertLessEqual(max(pages), page_size or 1_000)
        self.assertEqual(self.names("list/none", 0)[0], [])
        self.assertLess(set(wanted), set(self.names("", 0)[0]))

    def test_pages_have_bounds(self):
        for request in [{"page_size": 10_001}, {"page_token": b"not ours"}]:
            with self.subTest(request), self.refused("INVALID_ARGUMENT"):
                self.tcp.data_path.List(data_path_pb2.ListRequest(**request), timeout=SECONDS)

    def test_each_name_has_a_result_of_its_own(self):
        first, _ = self.tcp.put("delete/1", b"1")
        self.tcp.put("delete/2", b"2")
        results = self.tcp.delete("delete/2", "delete/none", "", "delete/1")
        outcomes = [(result.name, data_path_pb2.DeleteOutcome.Name(result.outcome), result.reason) for result in results]
        self.assertEqual(
            outcomes,
            [
                ("delete/2", "DELETE_OUTCOME_DELETED", ""),
                ("delete/none", "DELETE_OUTCOME_NOT_FOUND", ""),
                ("", "DELETE_OUTCOME_FAILED", "INVALID_NAME"),
                ("delete/1", "DELETE_OUTCOME_DELETED", ""),
            ],
        )
        with self.refused("OBJECT_NOT_FOUND"):
            self.tcp.stat("delete/1")

    def test_a_delete_has_bounds_and_a_precondition(self):
        with self.refused("INVALID_ARGUMENT"):
            self.tcp.delete(*(f"delete/{index}" for index in range(1_001)))
        results = self.tcp.delete(*(f"delete/{index}" for index in range(3, 1_003)))
        self.assertEqual({result.outcome for result in results}, {data_path_pb2.DELETE_OUTCOME_NOT_FOUND})
        version = self.tcp.put("delete/guarded", b"1")[0].object.version
        with self.refused("INVALID_ARGUMENT"):
            self.tcp.delete("delete/guarded", "x", precondition=Precondition(if_version=version))
        (result,) = self.tcp.delete("delete/guarded", precondition=Precondition(if_version=version + 1))
        self.assertEqual((result.outcome, result.reason), (data_path_pb2.DELETE_OUTCOME_FAILED, "VERSION_MISMATCH"))
        (result,) = self.tcp.delete("delete/guarded", precondition=Precondition(if_version=version))
        self.assertEqual(result.outcome, data_path_pb2.DELETE_OUTCOME_DELETED)

    def copy(self, source, target, **request):
        request = data_path_pb2.CopyRequest(**{"from": source, "to": target}, **request)
        return self.tcp.data_path.Copy(request, timeout=SECONDS)

    def test_a_copy_is_an_object_of_its_own(self):
        self.tcp.put("copy/from", LARGE[:400_000])
        copied = self.copy("copy/from", "copy/to")
        self.assertEqual((copied.object.name, copied.object.bytes), ("copy/to", 400_000))
        self.tcp.delete("copy/from")
        self.assertEqual(self.tcp.get("copy/to")[1], LARGE[:400_000])
        put_id = b"copy of sixteen."
        first = self.copy("copy/to", "copy/id", put_id=put_id)
        self.assertEqual(self.copy("copy/to", "copy/id", put_id=put_id).object, first.object)
        with self.refused("PUT_ID_REUSED"):
            self.copy("copy/to", "copy/other", put_id=put_id)
        with self.refused("OBJECT_NOT_FOUND"):
            self.copy("copy/from", "copy/nothing")
        with self.refused("OBJECT_EXISTS"):
            self.copy("copy/to", "copy/id", precondition=CREATE_ONLY)
        with self.refused("INVALID_NAME"):
            self.copy("copy/to", "")

    def test_verify_reads_the_whole_object(self):
        result, _ = self.tcp.put("verify", LARGE[:1_000_000])
        verified = self.tcp.data_path.Verify(data_path_pb2.VerifyRequest(name="verify"), timeout=SECONDS)
        self.assertEqual(verified.object, result.object)

    def test_damage_is_told_and_never_returned(self):
        repository = repositories_pb2.CreateRequest(name="damaged")
        self.tcp.repositories.Create(repository, timeout=SECONDS)
        before = stored_files()
        self.tcp.put("hurt", LARGE[:500_000], repository="damaged")
        pack = max(stored_files() - before, key=os.path.getsize)
        with open(pack, "r+b") as file:
            file.seek(250_000)
            byte = file.read(1)
            file.seek(250_000)
            file.write(bytes([byte[0] ^ 1]))
        with self.refused("DATA_LOSS"):
            self.tcp.get("hurt", repository="damaged")
        with self.refused("DATA_LOSS"):
            verify = data_path_pb2.VerifyRequest(repository="damaged", name="hurt")
            self.tcp.data_path.Verify(verify, timeout=SECONDS)

    def test_a_repository_that_is_not_there(self):
        calls = self.tcp.data_path
        one = {"repository": "none", "name": "x"}
        for call, request in [
            (calls.Stat, data_path_pb2.StatRequest(**one)),
            (calls.List, data_path_pb2.ListRequest(repository="none")),
            (calls.Delete, data_path_pb2.DeleteRequest(repository="none", names=["x"])),
            (calls.Copy, data_path_pb2.CopyRequest(**{"repository": "none", "from": "x", "to": "y"})),
            (calls.Verify, data_path_pb2.VerifyRequest(**one)),
        ]:
            with self.subTest(type(request).__name__), self.refused("REPOSITORY_NOT_FOUND"):
                call(request, timeout=SECONDS)
        with self.refused("REPOSITORY_NOT_FOUND"):
            self.tcp.get("x", repository="none")
        with Put(self.tcp) as put, self.refused("REPOSITORY_NOT_FOUND"):
            put.begin("x", repository="none")


def stored_files():
    return {path for path in glob.glob(os.environ["CAIRN_STORE"] + "/**", recursive=True) if os.path.isfile(path)}
