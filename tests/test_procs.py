"Workers end with their parent, however it ends."
import os, signal, subprocess, sys, time
import psutil, pytest

SCRIPT = '''
import time
from vislearn.procs import WorkerPool
pool = WorkerPool(2)
work = [pool.submit(time.sleep, 600) for _ in range(2)]
while len(pool._processes)<2 or not all(p.is_alive() for p in pool._processes.values()): time.sleep(.05)
time.sleep(1)
print(*[p.pid for p in pool._processes.values()], flush=True)
time.sleep(600)
'''


def heed_ctrl_c(): signal.signal(signal.SIGINT, signal.SIG_DFL) # a shell lets jobs in the background ignore it


def gone(pids, seconds):
    end = time.monotonic() + seconds
    while time.monotonic()<end:
        left = [p for p in pids if psutil.pid_exists(p) and psutil.Process(p).status()!=psutil.STATUS_ZOMBIE]
        if not left: return True
        time.sleep(.1)
    return False


@pytest.mark.parametrize('kill', [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(tmp_path, kill, request):
    (tmp_path/'script.py').write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, tmp_path/'script.py'], stdout=subprocess.PIPE, text=True)
    request.addfinalizer(parent.kill); pids = [int(p) for p in parent.stdout.readline().split()]
    assert len(pids)==2 and all(psutil.pid_exists(p) for p in pids)
    os.kill(parent.pid, kill); parent.wait()
    assert gone(pids, 5)


DEAF = '''
import time
from vislearn.procs import WorkerPool
pool = WorkerPool(2, deaf=True)
work = [pool.submit(time.sleep, 600) for _ in range(2)]
while len(pool._processes)<2 or not all(p.is_alive() for p in pool._processes.values()): time.sleep(.05)
time.sleep(1)
print(*[p.pid for p in pool._processes.values()], flush=True)
try: time.sleep(600)
except KeyboardInterrupt: pool.kill_workers(); pool.shutdown(); print('ended')
'''


def test_ctrl_c_is_answered_once(tmp_path, request):
    "It reaches parent and workers alike, and only the parent says something."
    (tmp_path/'script.py').write_text(DEAF)
    parent = subprocess.Popen([sys.executable, tmp_path/'script.py'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed_ctrl_c)
    request.addfinalizer(parent.kill); pids = [int(p) for p in parent.stdout.readline().split()]
    assert len(pids)==2; os.killpg(parent.pid, signal.SIGINT)
    said, complaint = parent.communicate(timeout=30)
    assert said=='ended\n' and complaint=='' and gone(pids, 5)
