"""Every file of the pipeline, named once; paths are relative to the project's folder."""

from pathlib import Path

CHECKED = Path("data/params_checked.txt")
IMAGES = Path("data/images.safetensors")
BASE = Path("models/base.safetensors")
CHECKPOINTS = Path("data/checkpoints.safetensors")
HELD_BACK = Path("data/held_back.safetensors")
FRESH = Path("data/fresh.safetensors")
AUTOENCODER = Path("models/autoencoder.safetensors")
LATENTS = Path("data/latents.safetensors")
DENOISER = Path("models/denoiser.safetensors")
GENERATED = Path("data/generated.safetensors")
GENERATED_LATENTS = Path("data/generated_latents.safetensors")
PREDICTIONS_ORIGINALS = Path("data/predictions_originals.safetensors")
PREDICTIONS_GENERATED = Path("data/predictions_generated.safetensors")
GREEDY_SOUP = Path("data/greedy_soup.json")
MODELS = Path("data/models.csv")
BOOTSTRAP = Path("data/bootstrap.csv")

BASE_METRICS = Path("metrics/train_base.json")
AUTOENCODER_METRICS = Path("metrics/train_autoencoder.json")
GENERATE_METRICS = Path("metrics/generate.json")
TRAJECTORY_METRICS = Path("metrics/evaluate_generated.json")
NOVELTY_METRICS = Path("metrics/novelty.json")
AUDIT_METRICS = Path("metrics/audit.json")

BASE_CURVE = Path("plots/train_base.csv")
FINETUNE_CURVE = Path("plots/finetune.csv")
AUTOENCODER_CURVE = Path("plots/train_autoencoder.csv")
DDPM_CURVE = Path("plots/train_ddpm.csv")
TRAJECTORY_CURVE = Path("plots/evaluate_generated.csv")

SUMMARY = Path("report/summary.csv")
SIMILARITY = Path("report/similarity.csv")
SCATTER_FIGURE = Path("report/scatter.png")
SIMILARITY_FIGURE = Path("report/similarity.png")
AUDIT = Path("report/audit")
