"""The pipeline under DVC, for real, beyond what each change must pass: `.ci/nightly`."""

import shutil

import pytest

from tests.toys.project import Project, clone, commit, make_project, stages_run

pytestmark = pytest.mark.nightly
KILLED = ("prepare_data", "finetune", "train_autoencoder", "train_ddpm", "generate")
KILLED += ("evaluate_originals", "evaluate_generated", "novelty", "audit")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A tiny project after its first `dvc repro`, committed."""
    project = make_project(tmp_path_factory.mktemp("project") / "pdiff")
    project.dvc("repro")
    commit(project)
    return project


def test_a_clean_run_elsewhere_gives_the_same_hashes(project, tmp_path):
    other = clone(project, tmp_path / "clone")
    assert stages_run(other.dvc("repro", PDIFF_TRACKING="off")) == set(project.lock())
    assert other.output_hashes() == project.output_hashes()
    assert other.run("git", "status", "--porcelain").strip() == ""


def test_own_images_and_any_timm_net(project, image_folder):
    chosen = ("data=folder", f"data.root={image_folder}", "net=timm", "base.net=test_vit")
    # the tiny recipe's sizes are meant for digits
    sizes = ("data.train_size=null", "data.validation_size=0.25", "data.test_size=null")
    more = ("data.size=32", "data.noise=0", "data.resize=32")
    overrides = [part for value in (*chosen, *sizes, *more) for part in ("-S", value)]
    output = project.dvc("exp", "run", "-n", "own", *overrides)
    assert stages_run(output) == set(project.lock())
    assert project.metrics()["accuracy"]["original_mean"] > 0
    assert "up to date" in project.dvc("status")
    shutil.copyfile(image_folder / "train/cat/0.png", image_folder / "train/cat/new.png")
    status = project.dvc("status")
    assert "prepare_data" in status and str(image_folder) in status
    project.undo()


def test_dvc_notices_a_change_of_an_own_net(tmp_path):
    project = make_project(tmp_path / "project")
    shutil.copyfile(project.path / "examples/cifar_resnet.py", project.path / "my_net.py")
    commit(project)
    chosen = ("-S", "net=own", "-S", "base.net=my_net.py:resnet20")
    output = project.dvc("exp", "run", *chosen, "finetune", check=False)
    assert "error: base.watch: 'requirements.txt' is not the file" in output
    assert "give -S base.watch=my_net.py" in output
    watched = (*chosen, "-S", "base.watch=my_net.py")
    output = project.dvc("exp", "run", "--temp", *watched, "finetune")
    assert stages_run(output) == {"check_params", "prepare_data", "train_base", "finetune"}
    assert stages_run(project.dvc("exp", "run", *watched, "finetune")) == set()  # from the cache
    with (project.path / "my_net.py").open("a") as file:
        file.write("# changed\n")
    status = project.dvc("status", "train_base", "finetune")
    assert "train_base:" in status and "finetune:" in status
    assert status.count("my_net.py") == 2


def test_stages_that_are_killed_one_after_the_other_end_the_same(project, tmp_path):
    killed = make_project(tmp_path / "killed")
    for stage in KILLED:
        killed.kill(stage, "dvc", "repro", saved=False)
    killed.dvc("repro")
    assert killed.output_hashes() == project.output_hashes()
    assert [path for path in (killed.path / ".work").glob("tmp*") if path.is_dir()] == []


@pytest.mark.parametrize(
    ("stage", "longer"), [("train_base", {"base.epochs": 40}), ("train_ddpm", {"ddpm.steps": 1500})]
)
def test_a_training_that_is_killed_under_dvc_ends_the_same(tmp_path, stage, longer):
    whole, killed = (make_project(tmp_path / name, **longer) for name in ("whole", "killed"))
    whole.dvc("repro", stage)
    killed.kill(stage, "dvc", "repro", stage)
    killed.dvc("repro", stage)
    assert killed.output_hashes() == whole.output_hashes()
    assert not killed.states(stage)
