"Everything that CI runs, in order, with the seconds each step took"
import os, subprocess, sys, time
from pathlib import Path

bin = Path(sys.executable).parent
env = os.environ | dict(PATH=f'{bin}:{os.environ["PATH"]}', OMP_NUM_THREADS='1', MPLBACKEND='agg', TQDM_DISABLE='1', PYTHONHASHSEED='0')
env.pop('PYTHONDONTWRITEBYTECODE', None)   # many tests start processes: without byte code each would compile every module again
steps = [
    ('notebooks run', ['nbdev_test', '--n_workers', '2']),
    ('pages and links', [sys.executable, 'tools/make_site.py', '--check']),
    ('tests', [sys.executable, '-m', 'pytest', '-q', '-n', '2', '--durations=12']),
]
times = []
for name, cmd in steps:
    print(f'== {name}', flush=True); start = time.time()
    code = subprocess.run(cmd, env=env).returncode
    times.append(f'{name} {time.time()-start:.0f} s')
    if code: sys.exit(f'{name}: failed with exit code {code} ({" ".join(cmd)})')
print('all checks passed: ' + ', '.join(times))
