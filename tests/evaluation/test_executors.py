"""Workers that are killed, in pools of the module alone: without Keras."""

import json

import processes
import pytest

from keras_memel.evaluation import executors

pytestmark = pytest.mark.once

# The module is loaded by its path: the workers import no backend.
SCRIPT = f"""
import concurrent.futures, importlib.util, json, multiprocessing, os, signal
import sys, time
spec = importlib.util.spec_from_file_location("own", {executors.__file__!r})
executors = importlib.util.module_from_spec(spec)
spec.loader.exec_module(executors)

def work(folder, number):
    mine = os.path.join(folder, f"{{number}}-{{os.getpid()}}.pid")
    open(mine, "w").close()
    first = os.path.join(folder, "first")
    if number == 3 and not os.path.exists(first):
        open(first, "w").close()
        # Wait until another worker has a task, and kill all, this one last.
        while not any(f.startswith("4-") for f in os.listdir(folder)):
            time.sleep(0.01)
        pids = [f[2:-4] for f in os.listdir(folder) if f.endswith(".pid")]
        mine = str(os.getpid())
        for pid in sorted(set(pids), key=lambda pid: pid == mine):
            os.kill(int(pid), signal.SIGKILL)
    if number == 4:
        while not os.path.exists(first):
            time.sleep(0.01)
        time.sleep(0.2)
    return number

if __name__ == "__main__":
    folder = sys.argv[1]
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(2, context)
    tasks = [(folder, number) for number in range(8)]
    found = executors.results(pool, work, tasks)
    print(json.dumps([(task[1], *outcome) for task, *outcome in found]))
"""


def test_a_pool_whose_workers_are_all_killed_costs_no_result(tmp_path):
    script = tmp_path / "study.py"
    script.write_text(SCRIPT)
    done = processes.run(script, tmp_path)
    found = json.loads(done.stdout)
    # Each task once: those that were finished are not repeated, and those
    # that were in the pool are.
    assert sorted(found) == [[number, number, ""] for number in range(8)]
    again = [path.name[0] for path in tmp_path.glob("*.pid")]
    assert all(again.count(number) == 1 for number in "012567")
    assert again.count("3") == 2
