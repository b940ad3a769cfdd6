"""Whole runs: a file in, pictures in a real S3, through a real broker and real worker processes with a null model."""

import hashlib
import json
import re
from contextlib import suppress

import numpy as np
import proxy
import pytest
from fleet import Fleet, wait_for

from producer import follow, listing
from producer.session import Session
from shared import images, keys, queue
from shared.errors import RunConflict
from workers import post


def file_of(*prompts: str) -> str:
    return "prompt\n" + "".join(f"{prompt}\n" for prompt in prompts)


def assert_all_there(fleet: Fleet, run: str, count: int) -> list[dict[str, object]]:
    """The oracle: every row exactly one object, of the manifest's hash, and nothing besides."""
    lines = [json.loads(line) for line in fleet.lines(run)]
    assert [line["row"] for line in lines] == list(range(1, count + 1))
    for line in lines:
        data = fleet.store.get(keys.inside(run, str(line["key"])))
        assert data is not None
        assert hashlib.sha256(data).hexdigest() == line["sha256"]
        assert json.loads(images.read_texts(data)["pixelmill"])["job"] == line["job"]
    stored = {entry.key for entry in fleet.store.list(f"runs/{run}/images/")}
    assert stored == {keys.inside(run, str(line["key"])) for line in lines}
    return lines


def test_every_row_becomes_a_picture_and_the_same_file_again_computes_nothing(fleet: Fleet) -> None:
    text = file_of(*(f"picture {i}" for i in range(20)))
    with fleet.worker() as worker:
        run = fleet.submit(text).run
        counts = fleet.finish(run)
        assert counts == {"rows": 20, "done": 20, "failed": 0, "dead": 0, "canceled": 0, "skipped": 0, "images": 20}
        assert_all_there(fleet, run, 20)
        before = fleet.lines(run)
        worker.kill()  # whoever computes something now would wait for ever
        again = fleet.submit(text)
        assert (again.run, again.joined, again.again) == (run, True, 0)
        assert fleet.finish(run, timeout_s=5) == counts
        assert fleet.lines(run) == before


def test_killed_twice_in_the_middle_every_row_is_done_exactly_once(fleet: Fleet) -> None:
    with fleet.worker() as worker:
        run = fleet.submit(file_of(*(f"slow picture {i}" for i in range(48)))).run
        for rows_done in (4, 12):
            wait_for(lambda n=rows_done: fleet.ledger.counts(run)["done"] >= n, f"{rows_done} rows")
            worker.kill()
            worker.start()
        counts = fleet.finish(run, timeout_s=120)
        assert (counts["done"], counts["images"]) == (48, 48)
        assert_all_there(fleet, run, 48)


def test_a_row_that_kills_its_worker_dies_after_three_deaths_and_takes_no_other_with_it(fleet: Fleet) -> None:
    with fleet.worker() as worker:
        run = fleet.submit(file_of(*("kill" if i == 5 else f"picture {i}" for i in range(12)))).run
        counts = fleet.finish(run, timeout_s=120)
        assert worker.process.poll() is None  # its pool process died, it did not
    assert (counts["done"], counts["dead"], counts["failed"]) == (11, 1, 0)
    dead = json.loads(fleet.store.get(keys.dead(run, 6)) or b"{}")
    assert (dead["state"], dead["attempts"]) == ("dead", 3)
    others = [json.loads(line) for line in fleet.lines(run)]
    assert max(line["attempts"] for line in others if line["row"] not in range(1, 9)) == 1  # another batch: uncharged


def test_a_bad_row_fails_alone_with_its_reason_and_its_line_can_be_produced_again(fleet: Fleet) -> None:
    text = 'Prompt,mood,noise_seed\ngood,a,\nfail,"b, c",\nnan,,7\nblack,,\nmemory,,\nmemory too,,\n'
    with fleet.worker():
        run = fleet.submit(text).run
        counts = fleet.finish(run)
        assert (counts["done"], counts["failed"]) == (3, 3)
        failed = fleet.lines(run, "failed.csv")
        assert failed[0] == "Prompt,mood,noise_seed,error_type,error,attempts"
        assert failed[2].startswith("nan,,7,")
        assert failed[1].startswith('fail,"b, c",')
        assert failed[1].endswith("ValueError,this prompt fails,1")
        assert ["NaN" in failed[2], "black" in failed[3]] == [True, True]
        mended = "\n".join(failed).replace("fail,", "fine,").replace("nan,", "fine,").replace("black,", "fine,")
        assert fleet.finish(fleet.submit(mended, name="failed.csv").run)["done"] == 3
        page = (fleet.store.get(keys.inside(run, "index.html")) or b"").decode()
        assert page.index("this prompt fails") < page.index("good")  # failures first
        assert "data:image/webp;base64," in page


def test_failed_rows_go_out_again_when_the_file_is_produced_again(fleet: Fleet) -> None:
    text = file_of("good", "fail", "fine")
    with fleet.worker():
        run = fleet.submit(text).run
        assert fleet.finish(run)["failed"] == 1
        again = fleet.submit(text)
        assert (again.run, again.again) == (run, 1)
        assert fleet.finish(run)["failed"] == 1
        tries = [entry.key for entry in fleet.store.list(keys.results(run))]
        assert len(tries) == 2


def test_another_file_under_a_run_s_name_is_refused_and_changes_nothing(fleet: Fleet) -> None:
    fleet.submit(file_of("one"), run="mine")
    standing = fleet.store.get(keys.description("mine"))
    with pytest.raises(RunConflict, match="exists and was made from another file"):
        fleet.submit(file_of("two"), run="mine")
    assert fleet.store.get(keys.description("mine")) == standing


def test_a_run_whose_ledger_is_lost_goes_on_with_what_is_not_done(fleet: Fleet) -> None:
    text = file_of(*(f"picture {i}" for i in range(20)))
    with fleet.worker() as worker:
        run = fleet.submit(text).run
        wait_for(lambda: fleet.ledger.counts(run)["done"] >= 8, "the first shard")
        worker.kill()
        fleet.ledger.redis.flushdb()
        stored = {entry.key for entry in fleet.store.list(f"runs/{run}/images/")}
        fleet.drawn.unlink()
        worker.start()
        assert fleet.submit(text).joined
        assert fleet.finish(run)["done"] == 20
    prompts = {keys.inside(run, line["key"]): line["job"]["prompt"] for line in assert_all_there(fleet, run, 20)}
    assert set(fleet.drawn.read_text().splitlines()) == {prompts[key] for key in prompts.keys() - stored}


def test_reuse_copies_the_pictures_of_equal_rows_and_makes_only_the_edited_ones(fleet: Fleet) -> None:
    with fleet.worker():
        rows = [f"picture {i},{i}" for i in range(10)]
        first = fleet.submit("prompt,seed\n" + "\n".join(rows), run="first").run
        fleet.finish(first)
        rows[3] = "another picture,3"
        second = fleet.submit("prompt,seed\n" + "\n".join(rows), run="second", reuse="first")
        assert second.copied == 9
        fleet.finish("second")
    before = [json.loads(line)["sha256"] for line in fleet.lines("first")]
    after = [json.loads(line)["sha256"] for line in fleet.lines("second")]
    assert [i for i in range(10) if before[i] != after[i]] == [3]
    assert_all_there(fleet, "second", 10)


def test_skipped_rows_are_counted_and_stand_in_failed_csv(fleet: Fleet) -> None:
    with fleet.worker():
        run = fleet.submit("prompt,steps\ngood,2\nbad,many\n", skip_bad=True).run
        counts = fleet.finish(run)
    assert counts == {"rows": 2, "done": 1, "failed": 0, "dead": 0, "canceled": 0, "skipped": 1, "images": 1}
    assert "bad,many" in fleet.lines(run, "failed.csv")[1]


def test_a_picture_is_stored_after_the_steps_that_its_row_asks_for(fleet: Fleet) -> None:
    with fleet.worker():
        run = fleet.submit("prompt,seed,post\nplain,5,\nmore,5,saturation:0;upscale:2\n").run
        assert fleet.finish(run)["done"] == 2
    plain, more = assert_all_there(fleet, run, 2)
    made = images.decode(fleet.store.get(keys.inside(run, str(more["key"]))) or b"")
    before = images.decode(fleet.store.get(keys.inside(run, str(plain["key"]))) or b"")
    assert np.array_equal(made, post.apply(before, ["saturation:0", "upscale:2"]))
    assert (plain["width"], more["width"], more["job"]["width"]) == (64, 128, 64)


def test_a_worker_that_is_asked_to_stop_hands_its_shard_back_and_charges_nobody(fleet: Fleet) -> None:
    with fleet.worker() as worker:
        run = fleet.submit(file_of(*(f"slow picture {i}" for i in range(16)))).run
        wait_for(lambda: next(fleet.store.list(f"runs/{run}/images/"), None), "the first picture")
        worker.drain.touch()
        wait_for(lambda: fleet.ledger.counts(run)["running"] == 0, "the shard to be handed back")
        worker.drain.unlink()
        assert fleet.finish(run)["done"] == 16
    lines = assert_all_there(fleet, run, 16)
    assert {line["attempts"] for line in lines} == {1}


def test_a_storage_that_goes_away_in_the_middle_of_a_shard_charges_no_row(fleet: Fleet) -> None:
    with (
        proxy.before(fleet.settings.s3_endpoint) as way,
        fleet.worker(s3_endpoint=f"http://127.0.0.1:{way.port}") as worker,
    ):
        run = fleet.submit(file_of(*(f"slow picture {i}" for i in range(8)))).run
        wait_for(lambda: fleet.ledger.shard(run, "000000").running_rows, "the first model call")
        way.go_away()
        wait_for(fleet.drawn.exists, "the last model call")
        worker.drain.touch()  # the wait for the storage must not keep a worker from leaving
        wait_for(lambda: fleet.ledger.counts(run)["running"] == 0, "the shard to be handed back")
        assert fleet.ledger.shard(run, "000000").deaths == {}
        worker.drain.unlink()
        way.come_back()
        assert fleet.finish(run)["done"] == 8
    assert {line["attempts"] for line in assert_all_there(fleet, run, 8)} == {1}


def test_messages_that_get_lost_or_come_twice_do_no_harm(fleet: Fleet) -> None:
    with fleet.worker():
        run = fleet.submit(file_of(*(f"picture {i}" for i in range(32)))).run
        fleet.ledger.redis.delete("bulk")  # every message that waits is lost
        for shard in ("000000", "000001", "000001"):
            queue.send(fleet.app, "bulk", run, shard)
        assert fleet.finish(run)["done"] == 32
    assert_all_there(fleet, run, 32)


def test_a_message_of_an_unknown_version_is_not_claimed(fleet: Fleet) -> None:
    run = fleet.submit(file_of("picture")).run
    fleet.app.send_task(queue.RUN_SHARD, kwargs={"run": run, "shard": "000000", "version": 99}, queue="bulk")
    with fleet.worker():
        wait_for(lambda: fleet.ledger.queued("bulk") == 0, "the message to be taken")
        assert fleet.finish(run)["done"] == 1


def test_a_model_that_is_damaged_is_no_attempt_and_the_run_says_why_it_waits(fleet: Fleet) -> None:
    (fleet.folder / "null" / "weights").write_text("damaged")
    with fleet.worker():
        run = fleet.submit(file_of("picture")).run
        wait_for(lambda: "have identity" in follow.unserved(fleet.ledger, run), "the reason")
        assert fleet.ledger.counts(run)["open"] == 1


def test_rm_stops_a_run_and_leaves_nothing_of_it(fleet: Fleet) -> None:
    session = Session(fleet.ledger, fleet.store, fleet.app, None)
    with fleet.worker():
        run = fleet.submit(file_of(*(f"slow picture {i}" for i in range(24)))).run
        wait_for(lambda: next(fleet.store.list(f"runs/{run}/images/"), None), "the first picture")
        assert listing.remove(session, run, sure=True) == 0
        other = fleet.submit(file_of("another"), name="other.csv").run
        assert fleet.finish(other)["done"] == 1  # the worker is free again, so the first run has ended
    assert listing.look(session, run) is None
    assert [key for key in fleet.ledger.redis.scan_iter("*") if run in key] == []


def test_a_run_whose_objects_are_gone_holds_up_no_other(fleet: Fleet) -> None:
    with fleet.worker():
        fleet.submit(file_of(*(f"picture {i}" for i in range(16))), run="gone")
        fleet.store.delete_all(keys.prefix("gone"))
        fleet.submit(file_of("one", "two"), name="other.csv", run="other")
        assert fleet.finish("other")["done"] == 2
        wait_for(lambda: not fleet.ledger.facts("gone"), "the run to be forgotten")


def test_rows_that_fail_one_after_another_all_go_out_again(fleet: Fleet) -> None:
    text = file_of("picture", "fail", "other", "fail again")
    run = fleet.submit(text).run
    for row in (2, 4):  # as if each had failed alone, before the try of the other was over
        fleet.ledger.redis.setbit(keys.failed(run), row, 1)
        fleet.ledger.redis.hincrby(keys.run(run), "open", -1)
        assert fleet.submit(text).again == 1
    names = {key.rpartition(":")[2] for key in fleet.ledger.redis.scan_iter(keys.shard(run, "*"))}
    assert names == {"000000", "000000.1", "000000.2"}


def test_what_an_interrupted_rm_left_is_not_taken_for_a_new_run_s_own(fleet: Fleet) -> None:
    session = Session(fleet.ledger, fleet.store, fleet.app, None)
    with fleet.worker():
        fleet.submit(file_of("one", "two"), run="mine")
        fleet.finish("mine")
        fleet.store.delete(keys.description("mine"))
        fleet.ledger.forget("mine")
        fleet.submit(file_of("three"), run="mine")
        assert fleet.finish("mine")["done"] == 1
        assert_all_there(fleet, "mine", 1)
    fleet.store.delete(keys.description("mine"))
    assert listing.remove(session, "mine", sure=True) == 0
    assert list(fleet.store.list(keys.prefix("mine"))) == []


def test_the_monitor_is_told_run_shard_and_live_progress(fleet: Fleet) -> None:
    seen: list[dict[str, object]] = []
    with fleet.app.connection_for_read() as connection, fleet.worker():
        receiver = fleet.app.events.Receiver(connection, handlers={"*": seen.append})
        with receiver.consumer_context() as (events, _channel, _consumers):
            run = fleet.submit(file_of(*(f"slow picture {i}" for i in range(16)))).run

            def told(kind: str) -> bool:
                with suppress(TimeoutError):
                    events.drain_events(timeout=0.2)
                return any(event["type"] == kind for event in seen)

            wait_for(lambda: told("task-progress"), "progress")
            wait_for(lambda: told("task-succeeded"), "the end of a shard")
    received = next(event for event in seen if event["type"] == "task-received")
    assert received["kwargs"] == f"{run} shard 000000"
    progress = next(event for event in seen if event["type"] == "task-progress")
    assert re.fullmatch(r"\d+/8 images( \(\+8: step \d+/2\))?", str(progress["result"]))
    assert "picture" not in str(seen)  # prompts stay out of the monitor
