"""Waiting for DVC's queue, here one of this file's own; tests/pipeline has the real one."""

import subprocess

import pytest

from pdiff.paper import runner
from pdiff.paper.experiments import make_experiment

ONE, TWO = (make_experiment(["recipe=quick", f"seed.model={seed}"]) for seed in (1, 2))


class Queue:
    """A queue as `dvc queue status` shows it; each look lets its own tasks go a state further."""

    def __init__(self, *tasks, ends="Success", refuses=()):
        self.tasks, self.ends, self.refuses = [list(task) for task in tasks], ends, refuses
        self.started, self.removed = False, []

    def __call__(self, *arguments, listen=True):
        text, code = "", 0
        match arguments:
            case ("queue", "status"):
                rows = sorted(self.tasks, key=lambda row: row[2] not in ("Running", "Queued"))
                text = "".join(f"{i}  {n}  12:38 AM  {state}\n" for i, n, state in rows)
                text = f"Task     Name  Created   Status\n{text}\nWorker status: 0 active, 0 idle\n"
                for task in self.tasks if self.started else []:
                    task[2] = self.ends if task[2] == "Queued" else task[2]
            case ("exp", "run", "--queue", "--name", name, *_) if name in self.refuses:
                text, code = "ERROR: there is an experiment of this name already", 1
            case ("exp", "run", "--queue", "--name", name, *_):
                self.tasks.append([f"{len(self.tasks):07x}", name, "Queued"])
            case ("queue", "remove", task):
                self.removed.append(task)
                self.tasks = [row for row in self.tasks if row[0] != task]
            case ("queue", "start", *_):
                self.started = True
            case ("queue", "logs", task):
                text = f"Traceback\nerror: the stage of {task} broke\n"
        return subprocess.CompletedProcess(arguments, code, text, "")


@pytest.fixture
def run(monkeypatch):
    def run(queue, *experiments, jobs=1):
        naps = iter(range(50))  # a wait without end is an error here
        monkeypatch.setattr(runner, "_dvc", queue)
        monkeypatch.setattr(runner.time, "sleep", lambda _: next(naps))
        return runner.run_with_dvc(experiments, jobs)

    return run


def test_each_experiment_is_queued_and_its_end_said(run, capsys):
    assert run(Queue(), ONE, TWO) == {}
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"{name}: success" for name in sorted([ONE.name, TWO.name])
    ]


def test_a_task_that_a_killed_worker_left_running_is_not_waited_for(run):
    assert run(Queue(("aaaaaaa", ONE.name, "Running")), ONE) == {}


def test_what_ended_earlier_makes_room_for_the_new_task(run):
    queue = Queue(("aaaaaaa", ONE.name, "Failed"), ("bbbbbbb", TWO.name, "Success"))
    assert run(queue, ONE) == {}
    assert queue.removed == ["aaaaaaa"]


def test_what_the_queue_holds_already_is_waited_for(run, capsys):
    assert run(Queue(("aaaaaaa", ONE.name, "Queued"), refuses=[ONE.name]), ONE) == {}
    assert f"{ONE.name}: success" in capsys.readouterr().err


def test_a_failure_has_the_last_error_of_its_own_task(run):
    queue = Queue(("aaaaaaa", ONE.name, "Running"), ends="Failed")
    assert run(queue, ONE) == {ONE.sha: "the stage of 0000001 broke"}


def test_what_dvc_refuses_is_a_failure_with_its_words(run):
    refused = {ONE.sha: "there is an experiment of this name already"}
    assert run(Queue(refuses=[ONE.name]), ONE, TWO) == refused


class LosesAWorker(Queue):
    """Of two workers that start at once one dies; the other has a task without end."""

    starts = ()

    def __call__(self, *arguments, listen=True):
        self.started = len(self.starts) > 1
        if arguments[:2] == ("queue", "start"):
            self.starts = (*self.starts, arguments[2:])
            self.tasks[0][2] = "Running" if len(self.starts) == 1 else self.ends
            return None
        return super().__call__(*arguments, listen=listen)


def test_a_worker_that_died_is_started_again_while_tasks_wait(run):
    queue = LosesAWorker()
    assert run(queue, ONE, TWO, jobs=2) == {}
    assert queue.starts == (("--jobs", "2"), ("--jobs", "2"))
    with pytest.raises(StopIteration):  # one worker is all that was asked for, and it works
        run(LosesAWorker(), ONE, TWO)
