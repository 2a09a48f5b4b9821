"The stored commit and config again: real repositories, real processes, equal to the last bit"
import json, os, shutil, subprocess, sys, tempfile
from pathlib import Path

import pytest, torch
import vislearn
from helpers import git, set_package_git
from vislearn.cli.main import main
from vislearn.runs import git as git_module
from vislearn.runs.git import git_state, has_commit, snapshot_patch
from vislearn.runs.record import Run, all_runs
from vislearn.runs.rerun import Rerun, RerunError, changed_since, metric_differences, model_digests, rerun

MODEL = '''import torch
from torch import nn

class Net(nn.Module):
    "The model of a user."
    def __init__(self, width=4):
        super().__init__(); self.layers = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Dropout(.1), nn.Linear(width, 1))
    def forward(self, x): return FACTOR * self.layers(x)

FACTOR = 1.
'''
CONFIG = '''task: supervised
description: {words}
seed: 3
data: {{root: {root}, train: {{name: waves, params: {{n: 64}}}}, test: {{name: waves, params: {{n: 32}}}}, num_workers: 0}}
model: {{name: "{module}:Net"}}
loss: {{name: F.mse_loss}}
schedule: {{name: one_cycle}}
train: {{epochs: 2, batch_size: 16}}
log: {{tensorboard: false}}
'''


@pytest.fixture
def repo(tmp_path, monkeypatch, request):
    "A user's repository with a model and a config, and vislearn as if installed from a wheel."
    set_package_git(monkeypatch)
    module = f'net_{abs(hash(request.node.nodeid)) % 10**8}'; repo = tmp_path/'mine'; repo.mkdir(); (tmp_path/'data').mkdir(); (tmp_path/'data'/'a').write_text('x')
    (repo/f'{module}.py').write_text(MODEL); (repo/'cfg.yaml').write_text(CONFIG.format(words='a wavy line', root=tmp_path/'data', module=module)); (repo/'.gitignore').write_text('/runs/\n__pycache__/\n')
    git(repo, 'init', '-q', '-b', 'main'); git(repo, 'add', '.'); git(repo, 'commit', '-q', '-m', 'first')
    monkeypatch.chdir(repo); monkeypatch.setattr(sys, 'path', list(sys.path)); monkeypatch.setattr(sys, 'dont_write_bytecode', True)
    repo_module[repo] = module
    yield repo
    sys.modules.pop(module, None)


repo_module = {}
def model_file(repo): return repo/f'{repo_module[repo]}.py'


def train(repo, *words):
    "Train like the command line does, with the code of now."
    sys.modules.pop(repo_module[repo], None); before = set(all_runs(repo/'runs'))
    assert main(['run', str(repo/'cfg.yaml'), *words]) == 0
    return Run((set(all_runs(repo/'runs')) - before).pop().resolve())


def state_of(repo): return git(repo, 'status', '--porcelain', '-b'), git(repo, 'worktree', 'list'), (repo/'.git'/'index').read_bytes(), model_file(repo).read_text()


def test_A31_two_runs_and_a_rerun_are_identical(repo):
    one, two = train(repo), train(repo)
    assert one.dir != two.dir and model_digests(one) == model_digests(two) and metric_differences(one, two) == []
    model_file(repo).write_text(MODEL.replace('FACTOR = 1.', 'FACTOR = 2.')); git(repo, 'commit', '-qam', 'moved on')
    (repo/'cfg.yaml').write_text('broken: now\n'); (repo/'new.txt').write_text('not committed'); before = state_of(repo)
    result = rerun(one)
    assert result.identical and result.weights is True and result.metrics == [] and result.digest == model_digests(one)['last'] and state_of(repo) == before
    new = result.run; assert new.dir.parent == one.dir.parent and new.dir != one.dir and (new.dir/'DONE').exists() and (new.dir/'config.yaml').read_bytes() == (one.dir/'config.yaml').read_bytes()
    assert new.manifest['rerun_of'] == one.id and new.manifest['git']['commit'] == one.manifest['git']['commit'] and new.manifest['import_path'] == one.manifest['import_path']
    git(repo, 'checkout', '-q', 'cfg.yaml'); (repo/'new.txt').unlink()
    moved = train(repo); assert model_digests(moved) != model_digests(one) and metric_differences(one, moved) # the later commit does give another result
    assert Rerun(moved, False, ['x'], [], None).identical is False and 'identical' in str(result)


def test_A31_snapshot_is_repeated_with_its_patch(repo, monkeypatch):
    (repo.parent/'tmp').mkdir(); monkeypatch.setattr(tempfile, 'tempdir', str(repo.parent/'tmp'))
    model_file(repo).write_text(MODEL.replace('FACTOR = 1.', 'from extra_part import FACTOR')); (repo/'extra_part.py').write_text('FACTOR = 1.5\n'); (repo/'film.bin').write_bytes(bytes(2*2**20))
    one = train(repo, '--dirty=snapshot')
    assert one.manifest['reproducible'] is False and one.manifest['policy'] == 'snapshot' and b'FACTOR = 1.5' in (one.dir/'git.patch').read_bytes()
    sys.modules.pop('extra_part'); (repo/'extra_part.py').unlink(); git(repo, 'checkout', '-q', '.'); before = state_of(repo)
    result = rerun(one, out=repo.parent/'elsewhere'); assert result.run.dir.is_relative_to(repo.parent/'elsewhere') and not list((repo.parent/'tmp').glob('vislearn*'))
    assert result.identical and any('film.bin' in line for line in result.remarks) and state_of(repo) == before and (result.run.dir/'git.patch').read_bytes() == (one.dir/'git.patch').read_bytes()
    (one.dir/'git.patch').unlink()
    with pytest.raises(RerunError, match='not committed .* no patch was kept'): rerun(one)


@pytest.mark.slow
def test_A31_the_package_moved_on(repo, tmp_path, monkeypatch):
    "The same with vislearn's own repository: here a copy of the package as it is, in a repository of its own."
    package = tmp_path/'package'; shutil.copytree(Path(vislearn.__file__).parent, package/'vislearn', ignore=shutil.ignore_patterns('__pycache__'))
    git(package, 'init', '-q'); git(package, 'add', '.'); git(package, 'commit', '-q', '-m', 'as it is')
    set_package_git(monkeypatch, lambda: git_state(package))
    one = train(repo); assert one.manifest['package_git']['root'] == str(package) and one.manifest['reproducible'] is True
    file = package/'vislearn'/'core.py'; file.write_text(file.read_text() + '\n\n_then = sample_key\ndef sample_key(seed, epoch, index): return _then(seed + 1, epoch, index)\n'); git(package, 'commit', '-qam', 'other random items')
    result = rerun(one); assert result.identical
    assert git(package, 'worktree', 'list').count('\n') == 1 and git(package, 'status', '--porcelain') == ''
    monkeypatch.setattr('vislearn.runs.rerun.has_commit', lambda root, commit: root != str(package) and has_commit(root, commit))
    with pytest.raises(RerunError, match='is not there any more'): rerun(one)
    set_package_git(monkeypatch); monkeypatch.setenv('PYTHONPATH', str(package)); (one.dir/'manifest.json').write_text(json.dumps(one.manifest | dict(package_git=None)))
    result = rerun(one); assert result.weights is False and result.metrics and not result.identical and 'weights: different' in str(result) # with the new code it would not be the same


def test_A33_thread_count_and_data_are_said(repo, tmp_path, capfd, monkeypatch):
    (tmp_path/'tmp').mkdir(); monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path/'tmp'))
    kept = torch.get_num_threads(); torch.set_num_threads(kept + 1)
    try: one = train(repo)
    finally: torch.set_num_threads(kept)
    (tmp_path/'data'/'b').write_text('new'); capfd.readouterr()
    assert main(['rerun', one.id[:-1], '--keep']) == 0
    lines = capfd.readouterr().out.splitlines(); new = Run(Path(lines[0])); assert (new.dir/'DONE').exists() and new.manifest['rerun_of'] == one.id
    assert lines[-2].startswith(f'weights: identical ({model_digests(one)["last"][:12]}') and lines[-1] == 'metrics: identical' and new.manifest['attempts'][0]['threads']['torch_num_threads'] == kept + 1
    assert any(f'threads: set to {kept + 1} as then, here it would be {kept}' in line for line in lines) and any('1 files, 1 bytes then, 2 files, 4 bytes now' in line for line in lines)
    tree = next((tmp_path/'tmp').glob('vislearn-rerun-*/config')); assert (tree/'cfg.yaml').exists() and any(str(tree.parent) in line for line in lines)  # --keep
    os.utime(tmp_path/'data'/'a', (1, 1)); (tmp_path/'data'/'b').unlink(); assert any('copied or touched' in line for line in changed_since(one))
    assert main(['rerun', 'nothing']) == 1 and 'no run nothing' in capfd.readouterr().err


def test_what_cannot_be_brought_back(repo, tmp_path):
    runs = lambda: len(all_runs(repo/'runs'))
    one = train(repo); manifest, count = one.manifest, runs()
    def refused(words, **changes):
        (one.dir/'manifest.json').write_text(json.dumps(manifest | changes))
        with pytest.raises(RerunError, match=words) as e: rerun(one)
        assert e.value.exit_code == 1 and '\n' not in str(e.value) and runs() == count and git(repo, 'worktree', 'list').count('\n') == 1
    refused('commit 000000000000 .* is not there any more', git=manifest['git'] | dict(commit='0'*40))
    refused('outside of any git repository', git=None)
    refused('outside of any commit', git=manifest['git'] | dict(commit=''))
    refused('not committed .x.py., and no patch was kept', git=manifest['git'] | dict(dirty=[' M x.py']))
    (one.dir/'manifest.json').write_text(json.dumps(manifest))
    (one.dir/'DONE').unlink()
    with pytest.raises(RerunError, match='has not finished'): rerun(one)


@pytest.mark.slow
def test_A31_two_processes_again(repo):
    "A run of two processes is repeated with two."
    one = train(repo, '--nproc', '2', '--cpu')
    model_file(repo).write_text(MODEL.replace('FACTOR = 1.', 'FACTOR = 2.')); git(repo, 'commit', '-qam', 'moved on')
    result = rerun(one); assert result.identical and result.run.manifest['attempts'][0]['world'] == one.manifest['attempts'][0]['world'] == 2


@pytest.mark.slow
def test_a_moved_repository_is_found_from_inside(repo, tmp_path, monkeypatch):
    one = train(repo); folder = tmp_path/'kept'; shutil.copytree(one.dir, folder)
    clone = tmp_path/'clone'; git(tmp_path, 'clone', '-q', str(repo), str(clone)); shutil.rmtree(repo/'.git')
    with pytest.raises(RerunError, match='call this inside of a clone'): rerun(folder)
    monkeypatch.chdir(clone); result = rerun(folder, out=tmp_path/'again'); assert result.identical


@pytest.mark.slow
def test_a_second_run_that_fails_says_so(repo, tmp_path):
    one = train(repo); shutil.rmtree(tmp_path/'data')
    with pytest.raises(RerunError, match='did not finish .exit code 2.*data.root'): rerun(one)
    assert git(repo, 'worktree', 'list').count('\n') == 1


def test_snapshot_of_this_repository_is_readable():
    "The patch of vislearn's own working tree, whatever state it is in, is one that git accepts."
    own = git_module.package_git()
    if not own or not own.commit: pytest.skip('vislearn does not run from a repository')
    patch = snapshot_patch(own.root)
    if own.dirty and b'diff --git' in patch: subprocess.run(['git', '-C', own.root, 'apply', '--numstat', '-'], input=patch, check=True, capture_output=True)
