"Repositories in every state: what is dirty, what a patch holds, and what is left alone"
import os, subprocess

import pytest
from vislearn.runs import git as module
from vislearn.runs.git import DirtyRepoError, GitError, add_worktree, apply_patch, check_repositories, git_state, has_commit, left_out, package_git, remove_worktree, save_patches, snapshot_patch


def git(folder, *words): return subprocess.run(['git', '-C', str(folder), '-c', 'user.name=a', '-c', 'user.email=a@b', *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repo(tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'package_git', lambda: None)
    repo = tmp_path/'repo'; repo.mkdir(); git(repo, 'init', '-q', '-b', 'main')
    (repo/'cfg.yaml').write_text('seed: 0\n'); (repo/'.gitignore').write_text('*.log\n'); (repo/'noise.bin').write_bytes(bytes(range(256))*9); (repo/'gone.py').write_text('old = 1\n')
    git(repo, 'add', '.'); git(repo, 'commit', '-q', '-m', 'first')
    return repo


def untracked(repo): (repo/'new.py').write_text('x')
def modified(repo): (repo/'cfg.yaml').write_text('seed: 1\n')
def staged(repo): modified(repo); git(repo, 'add', '.')
def mode(repo): (repo/'cfg.yaml').chmod(0o755)
def ignored(repo): (repo/'x.log').write_text('x')
def touched(repo): os.utime(repo/'cfg.yaml', (1, 1))
def nothing(repo): pass


@pytest.mark.parametrize('change, dirty', [(untracked, True), (modified, True), (staged, True), (mode, True), (ignored, False), (touched, False), (nothing, False)], ids=lambda v: getattr(v, '__name__', None))
@pytest.mark.parametrize('which', ['config', 'package'])
def test_A05_seven_states(repo, tmp_path, monkeypatch, change, dirty, which):
    cfg = repo/'cfg.yaml'
    if which == 'package':  # the same states in vislearn's own repository, beside a clean one of the config
        other = tmp_path/'other'; other.mkdir(); git(other, 'init', '-q'); cfg = other/'c.yaml'; cfg.write_text('a: 1\n'); git(other, 'add', '.'); git(other, 'commit', '-q', '-m', 'x')
        monkeypatch.setattr(module, 'package_git', lambda: git_state(repo))
    change(repo); before = git(repo, 'status', '--porcelain')
    if dirty:
        with pytest.raises(DirtyRepoError, match='not committed') as e: check_repositories([cfg])
        assert e.value.exit_code == 3 and '\n' not in str(e.value) and str(repo) in str(e.value)
    else: assert all(not s.dirty for s in check_repositories([cfg]))
    states = check_repositories([cfg], 'snapshot')
    assert len(states) == (2 if which == 'package' else 1) and any(s.dirty for s in states) == dirty and bool(snapshot_patch(repo)) == dirty
    assert git(repo, 'status', '--porcelain') == before


def same_files(a, b):
    def seen(top): return {p.relative_to(top).as_posix(): (os.readlink(p) if p.is_symlink() else p.read_bytes(), p.lstat().st_mode) for p in top.rglob('*') if (p.is_file() or p.is_symlink()) and '.git' not in p.parts and p.name != '.git'}
    one, two = seen(a), seen(b)
    assert one == two, sorted(k for k in one.keys() | two.keys() if one.get(k) != two.get(k))


def test_patch_brings_a_clean_checkout_into_the_same_state(repo, tmp_path):
    (repo/'cfg.yaml').write_text('seed: 1\nno newline'); (repo/'cfg.yaml').chmod(0o755); (repo/'noise.bin').write_bytes(os.urandom(3000)); (repo/'gone.py').unlink()
    (repo/'staged.py').write_text('s = 1\n'); git(repo, 'add', 'staged.py'); (repo/'staged.py').write_text('s = 2\n')    # the working tree counts, not the index
    (repo/'sub dir').mkdir(); (repo/'sub dir'/'né "w".bin').write_bytes(os.urandom(1000)); (repo/'link').symlink_to('cfg.yaml'); (repo/'empty').touch(); (repo/':(top)x').write_text('odd\n')
    (repo/'run.sh').write_text('#!/bin/sh\n'); (repo/'run.sh').chmod(0o755); (repo/'crlf.txt').write_bytes(b'a\r\n')
    before, index = git(repo, 'status', '--porcelain'), (repo/'.git'/'index').read_bytes()
    patch = snapshot_patch(repo)
    assert git(repo, 'status', '--porcelain') == before and (repo/'.git'/'index').read_bytes() == index and left_out(patch) == []
    tree = add_worktree(repo, git_state(repo).commit, tmp_path/'tree'); apply_patch(tree, patch)
    same_files(repo, tree)
    remove_worktree(repo, tree); assert not tree.exists() and git(repo, 'worktree', 'list').count('\n') == 1


def test_patch_does_not_depend_on_settings_of_the_user(repo, tmp_path):
    for key, value in (('diff.noprefix', 'true'), ('color.diff', 'always'), ('diff.external', 'false'), ('diff.mnemonicPrefix', 'true'), ('diff.context', '0'), ('diff.relative', 'true'), ('diff.renames', 'copies'), ('apply.whitespace', 'error')): git(repo, 'config', key, value)
    (repo/'new name.py').write_text('old = 1\n'); (repo/'gone.py').unlink(); (repo/'cfg.yaml').write_text('seed: 1 \n')
    tree = add_worktree(repo, git_state(repo).commit, tmp_path/'tree'); apply_patch(tree, snapshot_patch(repo)); same_files(repo, tree)


def test_patch_limits(repo, monkeypatch):
    monkeypatch.setattr(module, 'FILE_LIMIT', 100); monkeypatch.setattr(module, 'PATCH_LIMIT', 250)
    for name, size in dict(a=101, b=100, c=100, d=60, e=50).items(): (repo/name).write_bytes(b'x'*size)
    (repo/'inner').mkdir(); git(repo/'inner', 'init', '-q'); (repo/'inner'/'x').write_text('x'); git(repo/'inner', 'add', '.'); git(repo/'inner', 'commit', '-q', '-m', 'x')
    patch = snapshot_patch(repo)
    assert left_out(patch) == ['a: 101 bytes', 'c: 100 bytes', 'inner/: a repository of its own'] and all(f'b/{n}\n'.encode() in patch for n in 'bde')
    assert module.FILE_LIMIT == 100 and 'FILE_LIMIT, PATCH_LIMIT = 2**20, 10 * 2**20' in open(module.__file__).read()


def test_save_patches_one_per_repository(repo, tmp_path):
    other = tmp_path/'other'; other.mkdir(); git(other, 'init', '-q'); (other/'m.py').write_text('a\n'); git(other, 'add', '.'); git(other, 'commit', '-q', '-m', 'x'); (other/'m.py').write_text('b, and longer\n')
    out = tmp_path/'out'; out.mkdir()
    assert save_patches(git_state(repo), git_state(repo), out) == {} and not list(out.iterdir())
    assert save_patches(git_state(repo), git_state(other), out) == {'package.patch': []} and save_patches(git_state(other), git_state(other), out) == {'git.patch': []}
    assert (out/'git.patch').read_bytes() == (out/'package.patch').read_bytes() == snapshot_patch(other)


def test_no_repository_no_commit_no_git(repo, tmp_path, monkeypatch):
    plain = tmp_path/'plain'; plain.mkdir(); (plain/'c.yaml').write_text('x')
    empty = tmp_path/'empty'; empty.mkdir(); git(empty, 'init', '-q')
    for path, words in ((plain/'c.yaml', 'not in a git repository'), (empty, 'no commit')):
        for policy in ('refuse', 'snapshot'):
            with pytest.raises(DirtyRepoError, match=words): check_repositories([path], policy)
        check_repositories([path], 'record')
    (repo/'mine.log').write_text('a: 1')
    with pytest.raises(DirtyRepoError, match='ignored by git'): check_repositories([repo/'mine.log'])
    monkeypatch.setattr(module, 'package_git', package_git); monkeypatch.setattr(module, '__file__', str(plain/'vislearn'/'runs'/'git.py')); (plain/'vislearn'/'runs').mkdir(parents=True)
    with pytest.raises(DirtyRepoError, match='no commit that a run could name'): check_repositories([repo/'cfg.yaml'])    # an unpacked archive of vislearn
    monkeypatch.setattr(module, '__file__', str(tmp_path/'site-packages'/'vislearn'/'git.py')); assert package_git() is None and check_repositories([repo/'cfg.yaml'])
    monkeypatch.setenv('PATH', str(plain)); assert git_state(repo) is None
    with pytest.raises(DirtyRepoError, match='not in a git repository'): check_repositories([repo/'cfg.yaml'])


def test_a_broken_repository_is_not_clean(repo):
    (repo/'.git'/'index').write_bytes(b'garbage')
    with pytest.raises(GitError, match='git status` failed'): check_repositories([repo/'cfg.yaml'])


def test_unfinished_merge(repo):
    git(repo, 'checkout', '-q', '-b', 'side'); (repo/'cfg.yaml').write_text('seed: 1\n'); git(repo, 'commit', '-qam', 's'); git(repo, 'checkout', '-q', 'main'); (repo/'cfg.yaml').write_text('seed: 2\n'); git(repo, 'commit', '-qam', 'm')
    subprocess.run(['git', '-C', repo, '-c', 'user.name=a', '-c', 'user.email=a@b', 'merge', '-q', 'side'], capture_output=True)
    with pytest.raises(DirtyRepoError, match='middle of a merge'): snapshot_patch(repo)


def test_inside_of_a_git_hook(repo, tmp_path, monkeypatch):
    "Hooks set GIT_DIR and GIT_INDEX_FILE; another repository must be seen as it is."
    for name in ('GIT_DIR', 'GIT_INDEX_FILE', 'GIT_WORK_TREE'): monkeypatch.setenv(name, str(tmp_path/'elsewhere'))
    assert git_state(repo).root == str(repo) and git_state(repo).dirty == []
    (repo/'new.py').write_text('x'); assert git_state(repo).dirty == ['?? new.py']


def test_worktree_leaves_the_working_tree_alone(repo, tmp_path):
    first = git_state(repo).commit; (repo/'cfg.yaml').write_text('seed: 7\n'); git(repo, 'commit', '-qam', 'second'); (repo/'cfg.yaml').write_text('seed: 8\n'); git(repo, 'add', '.')
    hook = repo/'.git'/'hooks'/'post-checkout'; hook.parent.mkdir(exist_ok=True); hook.write_text(f'#!/bin/sh\ntouch {tmp_path}/hooked\n'); hook.chmod(0o755)
    before = git(repo, 'status', '--porcelain', '-b'), (repo/'.git'/'index').read_bytes()
    tree = add_worktree(repo, first, tmp_path/'tree')
    assert (tree/'cfg.yaml').read_text() == 'seed: 0\n' and (repo/'cfg.yaml').read_text() == 'seed: 8\n' and git_state(tree).commit == first and not (tmp_path/'hooked').exists()
    (tree/'more').write_text('x'); remove_worktree(repo, tree); assert not tree.exists() and (git(repo, 'status', '--porcelain', '-b'), (repo/'.git'/'index').read_bytes()) == before
    with pytest.raises(GitError, match='not in this repository'): add_worktree(repo, '0'*40, tree)
    assert not tree.exists() and has_commit(repo, first) and not has_commit(repo, '') and not has_commit(tmp_path/'none', first)
