#!/usr/bin/env python3
"""Start a small real Slurm inside this one machine, to try `vislearn run --slurm` or to test it.

    sudo python tools/slurm_cluster.py start /tmp/cluster           # two nodes of eight cores; installs Debian's Slurm if it is missing
    eval "$(sudo python tools/slurm_cluster.py env /tmp/cluster)"   # from now on sbatch, squeue and vislearn talk to this cluster
    sudo python tools/slurm_cluster.py status /tmp/cluster
    sudo python tools/slurm_cluster.py stop /tmp/cluster            # ends the daemons and all jobs

Partition `low` (the default) may be preempted by partition `high`. There is no accounting, no systemd and no cgroup; nodes may
have more cores than the machine. Needs root on Debian or Ubuntu; tested with Slurm 22.05 of Debian 12. Only Python's own library is used.
In tests: `with cluster(folder) as env:` gives the environment variables for commands and stops everything at the end."""
import argparse, contextlib, fcntl, json, os, re, shutil, signal, socket, subprocess, sys, time
from pathlib import Path

CLIENTS = ('srun', 'sbatch', 'salloc', 'squeue', 'sinfo', 'scontrol', 'scancel', 'sattach')
DAEMONS = ('munged', 'slurmctld', 'slurmd', 'slurmstepd')
_children = []   # daemons that this very process started, to be reaped


class ClusterError(RuntimeError):
    "The cluster cannot be started; one line says why."


def missing():
    "One line that says why no cluster can run here, or None."
    if sys.platform != 'linux': return 'a Slurm cluster needs Linux'
    if os.geteuid(): return 'a Slurm cluster needs root: run this with sudo'
    if not installed() and not shutil.which('apt-get'): return 'Slurm is not installed and there is no apt-get: install slurmctld, slurmd, munge and the Slurm commands first'


def installed(): return all(map(find, ('slurmctld', 'slurmd', 'munged', 'sbatch', 'srun')))
def find(name): return shutil.which(name) or shutil.which(name, path='/usr/sbin:/sbin:/usr/local/sbin')
def say(text): print(text, file=sys.stderr, flush=True)


def install():
    "Install Debian's Slurm and munge, once, also when two programs ask at the same time."
    if why := missing(): raise ClusterError(why)
    with open('/var/lock/vislearn-slurm-install', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if installed(): return
        say('installing slurm-wlm and munge (14 MB)')
        env = os.environ | dict(DEBIAN_FRONTEND='noninteractive')
        for cmd in (['update'], ['install', '-y', '--no-install-recommends', 'slurm-wlm', 'munge']):
            try: got = subprocess.run(['apt-get', '-q', '-o', 'DPkg::Lock::Timeout=120', *cmd], env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)
            except subprocess.TimeoutExpired: raise ClusterError(f'apt-get {cmd[0]} did not end within ten minutes') from None
            if got.returncode and cmd[0] == 'install': raise ClusterError(f'apt-get {cmd[0]} failed: {(got.stderr or got.stdout).strip().splitlines()[-1]}')
    if not installed(): raise ClusterError('slurm-wlm is installed, but slurmctld is not on the path')


def free_ports(count):
    "Ports that nobody listens on now, outside the range that systems hand out."
    found, port = [], 16817 + os.getpid() % 997 * 8
    while len(found) < count:
        with socket.socket() as s:
            try: s.bind(('', port)); found.append(port)
            except OSError: pass
        port = port + 1 if port < 32000 else 10000
    return found


def slurm_version():
    "For example (22, 5)."
    text = subprocess.run([find('slurmctld'), '-V'], capture_output=True, text=True, timeout=20).stdout
    return tuple(map(int, re.search(r'(\d+)\.(\d+)', text).groups()))


def memory_mb():
    "Memory of this machine in MB."
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') >> 20


def config(folder, nodes, ports, cpus, version):
    "Text of slurm.conf."
    D, names = folder, ','.join(f'n{i+1}' for i in range(nodes))
    preempt = 'SlurmctldParameters=preempt_send_user_signal' if version < (23, 2) else 'PreemptParameters=send_user_signal'   # renamed in 23.02
    lines = f'''ClusterName=vltest
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={D}/run/munge.sock,cred_expire=5
SlurmctldPidFile={D}/run/slurmctld.pid
SlurmdPidFile={D}/run/slurmd.%n.pid
StateSaveLocation={D}/state
SlurmdSpoolDir={D}/spool.%n
SlurmctldLogFile={D}/log/slurmctld.log
SlurmdLogFile={D}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
{preempt}
SchedulerParameters=bf_interval=2,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MpiDefault=none
JobRequeue=1
RequeueExit=75
KillWait=5'''.splitlines()
    if version < (23, 2): lines.append('AccountingStorageType=accounting_storage/none')
    lines += [f'NodeName=n{i+1} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory={max(2000, memory_mb())}' for i, port in enumerate(ports[1:])]
    lines += [f'PartitionName=low  Nodes={names} Default=YES MaxTime=INFINITE State=UP PriorityTier=1  PreemptMode=REQUEUE GraceTime=5',
              f'PartitionName=high Nodes={names} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF']
    return '\n'.join(lines) + '\n'


def environment(folder): return dict(SLURM_CONF=str(Path(folder).resolve()/'slurm.conf'))


def ask(folder, *cmd, timeout=10):
    "Output of a Slurm command, None if it fails or does not answer."
    try: got = subprocess.run(cmd, env=os.environ | environment(folder), capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    except (subprocess.TimeoutExpired, OSError): return None
    return got.stdout.strip() if got.returncode == 0 else None


def processes(folder):
    "pid -> name of the daemons, jobs and waiting clients of this cluster: never of the shell that only knows about it."
    conf, sock, found = f'SLURM_CONF={Path(folder).resolve()}/slurm.conf'.encode(), f'{Path(folder).resolve()}/run/munge.sock', {}
    for proc in Path('/proc').glob('[0-9]*'):
        try:
            name, state = (proc/'comm').read_text().strip(), (proc/'stat').read_text().rpartition(')')[2].split()[0]
            variables = (proc/'environ').read_bytes().split(b'\0'); words = (proc/'cmdline').read_bytes().decode(errors='replace')
        except OSError: continue
        if state == 'Z' or int(proc.name) == os.getpid(): continue
        mine = conf in variables and (name in DAEMONS + CLIENTS or any(v.startswith((b'SLURM_JOB_ID=', b'SLURM_STEP_ID=')) for v in variables))
        if mine or (name == 'munged' and sock in words): found[int(proc.name)] = name
    return found


def launch(folder, *cmd):
    "Start a daemon in its own session; its output goes to log/."
    with open(folder/'log'/f'{Path(cmd[0]).name}.out', 'a') as out:
        _children.append(subprocess.Popen(cmd, env=os.environ | environment(folder), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd=folder))
    return _children[-1]


def wait_for(what, started, folder, test, seconds):
    "Wait until `test()`; say what the logs say if a daemon ends or time is up."
    end = time.time() + seconds
    while not test():
        dead = [p for p in started if p.poll() is not None]
        if dead or time.time() > end:
            logs = [line for log in sorted((folder/'log').iterdir()) for line in log.read_text(errors='replace').splitlines() if re.search('error|fatal', line, re.I) and 'mpi/' not in line]
            raise ClusterError(f'{what} {"ended" if dead else "is not ready"} after {seconds - end + time.time():.0f} s: {logs[-1] if logs else f"see {folder}/log"}')
        time.sleep(.05)


def start(folder, nodes=2, cpus=8):
    "Start munged, slurmctld and the slurmds; give the environment variables for commands. Everything is stopped again if something fails."
    folder = Path(folder).resolve()
    if why := missing(): raise ClusterError(why)
    if not 1 <= nodes <= 64: raise ClusterError(f'expected 1 to 64 nodes, got {nodes}')
    if len(f'{folder}/run/munge.sock') > 100: raise ClusterError(f'{folder}: the path of a socket has at most 107 characters, choose a shorter folder')
    if processes(folder): raise ClusterError(f'a cluster runs in {folder} already: stop it first')
    if folder.exists() and any(folder.iterdir()) and not (folder/'slurm.conf').exists(): raise ClusterError(f'{folder} is not empty and holds no cluster: choose another folder')
    install()
    for old in ('state', 'run', 'log', *[p.name for p in folder.glob('spool.*')]): shutil.rmtree(folder/old, ignore_errors=True)
    for sub in ('state', 'run', 'log', *[f'spool.n{i+1}' for i in range(nodes)]): (folder/sub).mkdir(parents=True)
    key = folder/'munge.key'
    key.touch(mode=0o600); key.chmod(0o600); key.write_bytes(os.urandom(1024))
    version = slurm_version()
    if version >= (24, 5): (folder/'cgroup.conf').write_text('CgroupPlugin=disabled\n')
    try:
        run, log = folder/'run', folder/'log'
        munged = launch(folder, find('munged'), '--foreground', '--force', f'--key-file={key}', f'--socket={run}/munge.sock', f'--pid-file={run}/munged.pid', f'--log-file={log}/munged.log', f'--seed-file={run}/munged.seed')
        wait_for('munged', [munged], folder, (run/'munge.sock').exists, 10)
        for trial in range(3):
            (folder/'slurm.conf').write_text(config(folder, nodes, free_ports(nodes + 1), cpus, version))
            daemons = [munged, launch(folder, find('slurmctld'), '-D', '-c'), *[launch(folder, find('slurmd'), '-D', '-N', f'n{i+1}') for i in range(nodes)]]
            try: wait_for('Slurm', daemons, folder, lambda: (ask(folder, 'sinfo', '-h', '-N', '-p', 'low', '-o', '%T', timeout=5) or '').split() == ['idle'] * nodes, 30); break
            except ClusterError as e:
                if trial == 2 or 'in use' not in str(e): raise   # somebody was faster at the port
                for p in daemons[1:]: p.kill(); p.wait()
    except BaseException:
        stop(folder); raise
    return environment(folder)


def stop(folder):
    "End all jobs and daemons of this cluster, whatever state it is in; return how many processes there were."
    found, end = processes(folder), time.time() + 15
    seen = set(found)
    while found:
        for pid, name in found.items():
            hard = name not in DAEMONS[:3] or time.time() > end - 10   # slurmstepd would wait for its tasks
            with contextlib.suppress(ProcessLookupError): os.kill(pid, signal.SIGKILL if hard else signal.SIGTERM)
        if time.time() > end: raise ClusterError(f'these processes of {folder} do not end: {found}')
        time.sleep(.1)
        for p in _children: p.poll()   # no zombies
        found = processes(folder); seen |= set(found)
    _children[:] = [p for p in _children if p.poll() is None]
    return len(seen)


@contextlib.contextmanager
def cluster(folder, nodes=2, cpus=8):
    "A cluster for the time of a `with`: gives the environment variables for commands. It ends with this process, even after kill -9."
    guard = subprocess.Popen([sys.executable, __file__, 'guard', str(folder)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    try: yield start(folder, nodes, cpus)
    finally: stop(folder); guard.stdin.close(); guard.wait(30)   # it sees the end of its input, and finds nothing to do


def main(args=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('command', choices=('start', 'stop', 'status', 'env', 'guard'), help='guard: stop the cluster when the input ends'); p.add_argument('folder', type=Path, help='folder of the cluster, made if it is missing')
    p.add_argument('--nodes', type=int, default=2, help='number of nodes (2)'); p.add_argument('--cpus', type=int, default=8, help='cores of each node, may be more than there are (8)')
    a = p.parse_args(args)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))   # so that a half-started cluster is stopped
    try:
        if a.command != 'env' and os.geteuid(): raise ClusterError('needs root: run this with sudo')
        if a.command == 'start': start(a.folder, a.nodes, a.cpus); say(f'{a.nodes} node(s) idle; to use them type the next line')
        if a.command in ('start', 'env'): print(f'export SLURM_CONF={environment(a.folder)["SLURM_CONF"]}')
        if a.command == 'guard': sys.stdin.read()
        if a.command in ('stop', 'guard'): print(f'stopped {stop(a.folder)} processes')
        if a.command == 'status':
            found = processes(a.folder)
            print(json.dumps(dict(running='slurmctld' in found.values(), processes=found)) if found else 'not running')
            for cmd in (('sinfo',), ('squeue',)) if found else (): print(ask(a.folder, *cmd) or f'{cmd[0]}: no answer')
            return 0 if found else 1
    except ClusterError as e: say(f'slurm_cluster: {e}'); return 1
    except KeyboardInterrupt: return 130
    return 0


if __name__ == '__main__': sys.exit(main())
