"""Words of other libraries for what has another name here: what an unknown option, setting or value may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_NO_EPOCHS = "there are no epochs here: --steps N or --minutes M"
_STEPS = "the length of training is --steps N or --minutes M (train.steps, train.minutes)"
_RATE = "the learning rates are train.lr (of Muon, for matrices) and train.adamw_lr (of the rest)"
_LEVELS = "training has schedule.num_levels levels; sampling takes --steps evaluations"
_CLASSES = "sub-folders are classes and condition the model; network.classes=false leaves them out"
_LOOKS = "how often: train.evaluations (bounds), train.grids (samples), train.save_minutes (checkpoints)"
_WORKERS = "nothing to set: images are decoded once and kept, by all processors"
_AVERAGE = "the weights are always averaged, over train.ema_horizon steps"
_DEVICES = "--device NAME; several processes: torchrun --nproc-per-node N -m markovae train ..."
_DATA = "DATA is the first argument, without an option (data.source)"
_PRECISION = "--precision float32 or bfloat16 (train.precision); auto takes the faster"
_CLIP = "the largest norm of the gradient is train.clip"
_SCHEDULER = "sampling takes --sampler NAME; the learning rate falls from train.decay_start on"
_ATTENTION = "levels with attention are network.attention, 0 the finest"
_QUALITY = "markovae quality RUN compares samples with images: KID, Fréchet distance, precision and recall"

_FIXED = "nothing to set: it is part of the network"
_FASTEST = "nothing to set: torch's fastest attention is taken"
_CACHED = "nothing to set: images are kept in the cache folder (MARKOVAE_CACHE moves it)"
_UNITS = "pixel values are read as 0...255 and scaled by the model (target.pixels)"
_SCHEDULE_ENDS = "the schedule's ends are log-SNRs: schedule.start and schedule.end"
_LONG = "training is as long as --steps N or --minutes M; images seen = steps * train.batch"
_SAMPLERS = "--sampler NAME and --steps N of markovae sample"
_NOISE = "each sampler has its own noise: --sampler ancestral or ddim, markovae sample --help lists them"
_NO_LORA = "there is no LoRA: all weights are trained, from another run's with --init RUN"
_CONTINUE = "--resume with --out RUN; --init RUN starts a new run from its weights"
_OBJECTIVE = "train.level_sampling, train.level_center and train.level_width"

WORDS = {
    # data
    **dict.fromkeys(("mirror", "xflip", "aug", "augpipe"), "data.flip"),
    **dict.fromkeys(("random_resized_crop",), "data.random_crop"),
    **dict.fromkeys(
        ("color_jitter", "rotation", "random_rotation"), "there is none here: data.flip and data.random_crop"
    ),
    **dict.fromkeys(("grayscale", "gray"), "data.channels=grey"),
    **dict.fromkeys(("normalize", "mean", "std", "auto_normalize"), _UNITS),
    **dict.fromkeys(("cache", "cache_dir"), _CACHED),
    **dict.fromkeys(("shuffle", "drop_last", "pin_memory", "persistent_workers", "split_batches"), _WORKERS),
    **dict.fromkeys(("cond", "use_labels"), _CLASSES),
    **dict.fromkeys(("subset", "max_train_samples"), "all images are taken: give a folder of those that are meant"),
    **dict.fromkeys(("resolution", "image_size", "img_size", "input_size", "sample_size", "crop_size"), "data.size"),
    **dict.fromkeys(("data_dir", "train_data_dir", "dataset", "dataset_name", "data_path", "folder", "input"), _DATA),
    **dict.fromkeys(("random_crop", "randomcrop", "crop_aug"), "data.random_crop"),
    **dict.fromkeys(("random_flip", "hflip", "horizontal_flip", "augment", "augment_horizontal_flip"), "data.flip"),
    **dict.fromkeys(("center_crop", "resize_mode"), "data.fit (crop, pad or resize)"),
    **dict.fromkeys(("num_channels", "in_channels", "image_channels", "convert_image_to"), "data.channels"),
    **dict.fromkeys(("workers", "num_workers", "dataloader_num_workers"), _WORKERS),
    **dict.fromkeys(("val_split", "test_split", "val_size"), "data.validation_fraction and data.test_fraction"),
    **dict.fromkeys(("num_classes", "class_cond", "class_conditional"), _CLASSES),
    "caption_column": "captions are read from captions.csv or metadata.jsonl: condition.kind=text",
    # training
    **dict.fromkeys(("duration", "kimg", "total_kimg", "total_steps", "end_step", "lr_anneal_steps"), _LONG),
    **dict.fromkeys(("use_fp16", "mixed_precision_type", "fp16_scale_growth", "ls"), _PRECISION),
    **dict.fromkeys(("ema_update_every", "ema_power", "ema_inv_gamma", "ema_kimg", "decay"), _AVERAGE),
    **dict.fromkeys(("resume_checkpoint", "load_from", "restore", "ckpt", "checkpoint"), _CONTINUE),
    **dict.fromkeys(("transfer", "init_from"), "--init RUN"),
    **dict.fromkeys(("microbatch", "batch_gpu", "batch_split"), "train.accumulate"),
    **dict.fromkeys(
        ("global_batch_size", "per_gpu_batch_size", "local_batch_size"), "--batch N (train.batch), of all processes"
    ),
    **dict.fromkeys(("clip_grad_norm",), _CLIP),
    **dict.fromkeys(("min_lr", "cosine", "lr_decay"), "the learning rate falls to zero from train.decay_start on"),
    **dict.fromkeys(
        ("log_interval", "log_every", "print_freq", "tick"), "nothing to set: metrics.jsonl has a row per ten steps"
    ),
    **dict.fromkeys(("snap", "dump", "save_freq", "ckpt_every", "save_model_epochs", "demo_every"), _LOOKS),
    **dict.fromkeys(("evaluate_every", "evaluate_n"), _LOOKS),
    **dict.fromkeys(("save_best_and_latest_only", "early_stopping", "patience"), "train.keep_best"),
    **dict.fromkeys(
        ("overwrite_output_dir", "overwrite"), "a run is never overwritten: name another --out, or delete it"
    ),
    **dict.fromkeys(("outdir", "logging_dir", "exp_name", "name", "desc"), "--out"),
    **dict.fromkeys(
        ("wandb_project", "wandb_entity", "wandb_run_name", "tracker_project_name"),
        "--log wandb; its own WANDB_PROJECT names the project",
    ),
    **dict.fromkeys(("local_rank", "device_ids", "no_cuda"), _DEVICES),
    **dict.fromkeys(("bench", "cudnn_benchmark", "deterministic"), "nothing to set: a seed gives the same run"),
    **dict.fromkeys(("xformers", "flash_attn", "enable_xformers_memory_efficient_attention"), _FASTEST),
    **dict.fromkeys(("schedule_sampler", "p_mean", "p_std"), _OBJECTIVE),
    **dict.fromkeys(("use_kl", "rescale_learned_sigmas"), "train.objective"),
    **dict.fromkeys(("dry_run",), "markovae inspect DATA says what would be trained on"),
    **dict.fromkeys(("lora", "lora_rank", "use_lora"), _NO_LORA),
    **dict.fromkeys(("text_encoder", "tokenizer"), "condition.encoder"),
    **dict.fromkeys(("caption_dropout",), "train.label_dropout"),
    **dict.fromkeys(("learning_rate", "lr", "base_lr", "train_lr"), _RATE),
    **dict.fromkeys(("num_epochs", "epochs", "max_epochs", "num_train_epochs", "n_epochs"), _NO_EPOCHS),
    **dict.fromkeys(("max_steps", "max_train_steps", "train_num_steps", "num_steps", "iterations", "iters"), _STEPS),
    **dict.fromkeys(("max_time", "time_limit"), _STEPS),
    **dict.fromkeys(("batch_size", "train_batch_size", "bs"), "--batch N (train.batch)"),
    **dict.fromkeys(("mixed_precision", "amp", "fp16", "bf16", "half", "dtype"), _PRECISION),
    **dict.fromkeys(("use_ema", "ema", "ema_decay", "ema_max_decay", "ema_rate"), _AVERAGE),
    **dict.fromkeys(("random_seed", "manual_seed", "rng_seed", "generator"), "--seed N (train.seed)"),
    **dict.fromkeys(("logger", "log_with", "report_to", "wandb", "tensorboard"), "--log wandb or --log tensorboard"),
    **dict.fromkeys(("output_dir", "results_folder", "save_dir", "logdir", "default_root_dir", "output"), "--out"),
    **dict.fromkeys(("resume_from", "resume_from_checkpoint", "ckpt_path", "auto_resume"), "--resume, with --out RUN"),
    **dict.fromkeys(("pretrained", "pretrained_model_name_or_path", "initial_checkpoint", "finetune"), "--init RUN"),
    **dict.fromkeys(("gradient_accumulation_steps", "gradient_accumulate_every"), "train.accumulate"),
    **dict.fromkeys(("accumulate_grad_batches", "grad_accum_steps"), "train.accumulate"),
    **dict.fromkeys(("gradient_checkpointing", "grad_checkpointing", "use_checkpoint"), "train.checkpointing"),
    **dict.fromkeys(("max_grad_norm", "gradient_clip_val", "clip_grad", "grad_clip"), _CLIP),
    **dict.fromkeys(("warmup", "lr_warmup_steps", "warmup_epochs"), "train.warmup_steps"),
    **dict.fromkeys(("lr_scheduler", "lr_schedule", "scheduler", "sched", "noise_scheduler"), _SCHEDULER),
    **dict.fromkeys(
        ("opt", "optimiser", "use_8bit_adam"),  # codespell:ignore optimiser
        "train.optimizer (muon or adamw)",
    ),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "adam_betas", "betas"), "train.beta1 and train.beta2"),
    **dict.fromkeys(("wd", "adam_weight_decay"), "train.weight_decay"),
    **dict.fromkeys(("save_every", "save_and_sample_every", "checkpointing_steps", "save_interval"), _LOOKS),
    **dict.fromkeys(("eval_every", "val_check_interval", "check_val_every_n_epoch", "save_images_epochs"), _LOOKS),
    **dict.fromkeys(("checkpoints_total_limit", "save_top_k", "save_total_limit"), "train.keep"),
    **dict.fromkeys(("devices", "gpus", "gpu", "num_gpus", "num_processes", "accelerator", "strategy"), _DEVICES),
    **dict.fromkeys(("torch_compile", "compile_model"), "train.compile"),
    **dict.fromkeys(("cond_drop_prob", "class_dropout_prob", "unconditional_prob", "p_uncond"), "train.label_dropout"),
    **dict.fromkeys(("snr_gamma", "min_snr_gamma", "min_snr_loss_weight", "loss_type", "loss"), "train.weighting"),
    **dict.fromkeys(("noise_offset", "offset_noise", "self_condition", "input_perturbation"), "there is none here"),
    # model
    **dict.fromkeys(("predict_xstart", "precond", "objective_type"), "target.name"),
    **dict.fromkeys(("sigma_data", "rescale_timesteps", "immiscible", "offset_noise_strength"), "there is none here"),
    **dict.fromkeys(("sigma_min", "sigma_max", "beta_max"), _SCHEDULE_ENDS),
    **dict.fromkeys(("ddpm_beta_schedule",), "schedule.kind"),
    **dict.fromkeys(("ddpm_num_steps",), _LEVELS),
    **dict.fromkeys(("learned_variance",), "target.reverse"),
    **dict.fromkeys(("cbase", "init_dim", "num_filters"), "network.width"),
    **dict.fromkeys(("cres",), "network.multipliers"),
    **dict.fromkeys(("num_heads", "num_head_channels", "attn_heads", "attn_dim_head"), "network.head_dim"),
    **dict.fromkeys(("use_scale_shift_norm", "resblock_updown", "random_fourier_features"), _FIXED),
    **dict.fromkeys(("use_new_attention_order", "num_heads_upsample"), _FIXED),
    **dict.fromkeys(("prediction_type", "parameterization", "pred_type"), "target.name"),
    **dict.fromkeys(("beta_schedule", "noise_schedule"), "schedule.kind"),
    **dict.fromkeys(("timesteps", "num_timesteps", "num_train_timesteps", "diffusion_steps"), _LEVELS),
    **dict.fromkeys(("learn_sigma", "variance_type"), "target.reverse"),
    **dict.fromkeys(("model", "arch", "model_type", "model_config_name_or_path"), "network.kind"),
    **dict.fromkeys(("dim", "model_channels", "base_channels", "hidden_size", "block_out_channels"), "network.width"),
    **dict.fromkeys(("dim_mults", "channel_mult", "ch_mult"), "network.multipliers"),
    **dict.fromkeys(("num_res_blocks", "layers_per_block", "num_layers"), "network.blocks"),
    **dict.fromkeys(("attention_resolutions", "attn_resolutions", "full_attn"), _ATTENTION),
    **dict.fromkeys(("patch_size",), "network.patch, or network.dit.patch"),
    **dict.fromkeys(("drop", "drop_rate", "drop_path"), "network.dropout"),
    # sampling, editing, measuring
    **dict.fromkeys(("timestep_respacing", "ddpm_num_inference_steps", "demo_steps"), "--steps N"),
    **dict.fromkeys(("use_ddim", "solver"), _SAMPLERS),
    **dict.fromkeys(("eta", "ddim_sampling_eta", "s_churn", "s_noise", "s_min", "s_max"), _NOISE),
    **dict.fromkeys(
        ("rho", "disc", "scaling"), "each sampler has its own grid of levels: --sampler NAME of markovae sample"
    ),
    **dict.fromkeys(("clip_denoised",), "target.clip"),
    **dict.fromkeys(("classifier_scale",), "--guidance W"),
    **dict.fromkeys(("model_path", "network_pkl", "model_dir"), "RUN is the first argument, without an option"),
    **dict.fromkeys(("seeds",), "--seed N: image i of --n has a stream of its own"),
    **dict.fromkeys(("sample_n", "num_generated", "eval_batch_size"), "--n N"),
    **dict.fromkeys(("calculate_fid", "num_fid_samples", "metrics"), _QUALITY),
    **dict.fromkeys(("prompt_file",), "--prompt TEXT, repeatable"),
    **dict.fromkeys(("cfg", "cfg_scale", "guidance_scale", "cond_scale"), "--guidance W"),
    **dict.fromkeys(("negative_prompt", "neg_prompt"), "--negative TEXT"),
    **dict.fromkeys(("num_samples", "n_samples", "num_images", "num_images_per_prompt"), "--n N"),
    **dict.fromkeys(("num_inference_steps", "sampling_timesteps", "ddim_steps", "sample_steps"), "--steps N"),
    **dict.fromkeys(("class_labels", "class_idx", "label", "labels"), "--class K"),
    **dict.fromkeys(("strength", "denoising_strength", "img2img", "init_image"), "markovae edit --from-level F"),
    **dict.fromkeys(("inpaint", "inpainting", "mask_image"), "markovae edit --mask FILE"),
    **dict.fromkeys(
        ("invert", "invert_mask", "mask_invert", "inpainting_mask_invert", "inpaint_not_masked"),
        "white is redrawn and black is kept: invert the mask's image",
    ),
    **dict.fromkeys(("fid", "kid", "inception_score", "evaluate", "eval"), _QUALITY),
    **dict.fromkeys(("bpd", "nll", "likelihood", "elbo"), "markovae measure RUN"),
    **dict.fromkeys(("push_to_hub", "hub_model_id"), "markovae export RUN --to diffusers DIR --push NAME"),
}

VALUES = {
    **dict.fromkeys(("epsilon", "eps", "pred_noise", "noise_prediction"), "noise"),
    **dict.fromkeys(("v", "v_prediction", "pred_v"), "velocity"),
    **dict.fromkeys(("sample", "x0", "x_start", "pred_x0", "start_x"), "data"),
    **dict.fromkeys(("adam", "adamw8bit", "adam8bit"), "adamw"),
    **dict.fromkeys(("bf16", "fp16", "float16", "half"), "bfloat16"),
    **dict.fromkeys(("fp32", "full", "32", "no"), "float32"),
    **dict.fromkeys(("squaredcos_cap_v2", "squared_cosine"), "cosine"),
    **dict.fromkeys(("ddpm", "ddpm_sampler"), "ancestral"),
    **dict.fromkeys(("dpm_solver_pp", "dpm++_2m", "dpmsolver++", "dpmpp_2m"), "dpmpp2m"),
    **dict.fromkeys(("dpm++_2m_sde", "dpmpp_2m_sde"), "sde-dpmpp2m"),
    **dict.fromkeys(("fixed_small", "fixed_small_log"), "posterior"),
    **dict.fromkeys(("fixed_large", "fixed_large_log"), "step"),
    **dict.fromkeys(("learned_range", "learn_sigma"), "learned"),
    **dict.fromkeys(("unet2d", "unet2dmodel"), "ddpm"),
    **dict.fromkeys(("transformer", "uvit"), "dit"),
    **dict.fromkeys(("stretch", "squash"), "resize"),
    **dict.fromkeys(("caption", "captions", "prompt"), "text"),
    **dict.fromkeys(("label", "labels", "classes"), "class"),
    **dict.fromkeys(("onnx", "torchscript", "pt2", "safetensors"), "torch"),
}

COMMANDS = {
    **dict.fromkeys(("generate", "infer", "inference", "predict", "draw"), "sample"),
    **dict.fromkeys(("fit", "finetune", "resume"), "train"),
    **dict.fromkeys(("inpaint", "img2img", "restore"), "edit"),
    **dict.fromkeys(("bpd", "nll", "likelihood"), "measure"),
    **dict.fromkeys(("fid", "kid", "metrics"), "quality"),
    **dict.fromkeys(("info", "summary", "stats"), "inspect"),
    **dict.fromkeys(("eval", "evaluate", "test"), "measure (bits/dim) or quality (KID)"),
    **dict.fromkeys(("convert",), "import or export"),
}

CLOSE = 0.75  # likeness of two spellings of one word; "lr" and "help" are further apart


def nearest(word: str, known: Iterable[str], close: float = CLOSE) -> str | None:
    """The one of `known` that is spelled almost like `word`, or None."""
    names = list(known)
    plain = {name.lower().replace("_", "-"): name for name in names}
    near = difflib.get_close_matches(word.lower().replace("_", "-"), list(plain), n=1, cutoff=close)
    return plain[near[0]] if near else None


def meant(name: str) -> str | None:
    """What an option or a setting by another library's name is here, or that there is none; None for unknown words.

    Args:
        name: such as --learning-rate or train.learning_rate.
    """
    word = _word(name.rpartition(".")[2])
    return WORDS.get(nearest(word, WORDS, 0.9) or "")


def suggestion(value: str, known: Iterable[str]) -> str:
    """ "; did you mean X?" for a value of a list, by meaning or by spelling; empty where nothing is near."""
    names = list(known)
    found = VALUES.get(_word(value))
    near = found if found in names else nearest(value, names, 0.6)
    return f"; did you mean {near}?" if near else ""


def _word(name: str) -> str:
    return name.lstrip("-").lower().replace("-", "_").replace(" ", "_")
