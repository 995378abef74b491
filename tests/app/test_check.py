"""`check`: a folder that runs cannot go to, a decoder that is not there, a bench that memory cannot hold."""

import pytest

from app import devices
from app.check import check_profile
from app.errors import UsageError
from app.profile import PROFILES, ProfileError, load_profile, parse_profile
from recon.decoders.shipped import decoder_problem

TINY = (PROFILES / "tiny.toml").read_text()


def test_the_folder_of_runs_has_to_be_one(tmp_path):
    file = tmp_path / "file.txt"
    file.touch()
    for folder, word in ((file, "is a file"), (tmp_path / "none", "does not exist")):
        with pytest.raises(UsageError, match=f"--folder {folder}: {word}"):
            check_profile(load_profile("tiny"), folder=folder)
    assert check_profile(load_profile("tiny"), folder=tmp_path).errors == []


@pytest.mark.parametrize("name", ["foo", "", "none.safetensors"])
def test_a_decoder_that_does_not_exist_is_an_error_of_the_check(name):
    profile = parse_profile(TINY.replace('decoder = "mnist"', f'decoder = "{name}"'), "mine")
    (error,) = check_profile(profile).errors
    assert f"reconstruction.decoder: decoder {name!r} does not exist; installed: mnist, " in error.message


def test_a_file_that_is_no_decoder_is_told(tmp_path):
    path = tmp_path / "text.safetensors"
    path.write_text("some text")
    assert "not a readable safetensors file" in decoder_problem(str(path))
    assert decoder_problem("mnist") == decoder_problem("mnist-complex") == ""
    prior = next(PROFILES.parent.parent.glob("recon/decoders/pretrained/mnist-4.prior.safetensors"))
    assert "holds no decoder" in decoder_problem(str(prior))


def test_a_simulated_frame_that_memory_cannot_hold_is_refused(monkeypatch):
    monkeypatch.setattr(devices, "available_memory", lambda: 4_000_000_000)
    profile = parse_profile(TINY.replace("shape = [128, 128]", "shape = [20000, 20000]"), "mine")
    with pytest.raises(ProfileError, match=r"camera.shape 20000 x 20000: simulating one takes 64 GB, 4 GB are free"):
        devices.open_devices(profile)
