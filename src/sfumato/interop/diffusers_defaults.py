"""What diffusers' schedulers are told: each key with its default, and keys of no effect here.

Of diffusers 0.42's constructors; a key that a scheduler_config.json leaves out means its default.
"""

from typing import Any

TABLE = {  # what may be said of the betas
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
    "steps_offset": 0,
}
UNSCALED = {key: value for key, value in TABLE.items() if key != "rescale_betas_zero_snr"}
LATENT = {"beta_start": 0.00085, "beta_end": 0.012}  # latent diffusion's betas
THRESHOLD = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
CLIP = {"clip_sample": True, "clip_sample_range": 1.0, "timestep_spacing": "leading"}
SIGMAS = {
    **{"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False},
    "timestep_spacing": "linspace",
}
FLOW = {"use_flow_sigmas": False, "flow_shift": 1.0}
SHIFT = {"use_dynamic_shifting": False, "time_shift_type": "exponential"}
DEFAULTS: dict[str, dict[str, Any]] = {
    "DDPMScheduler": {**TABLE, **THRESHOLD, **CLIP, "variance_type": "fixed_small"},
    "DDIMScheduler": {**TABLE, **THRESHOLD, **CLIP, "set_alpha_to_one": True},
    "DPMSolverMultistepScheduler": {
        **{**TABLE, **THRESHOLD, **SIGMAS, **FLOW, **SHIFT, "final_sigmas_type": "zero"},
        **{"solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint"},
        **{"lower_order_final": True, "euler_at_final": False, "use_lu_lambdas": False},
        **{"lambda_min_clipped": -float("inf"), "variance_type": None},
    },
    "UniPCMultistepScheduler": {
        **{**TABLE, **THRESHOLD, **SIGMAS, **FLOW, **SHIFT, "final_sigmas_type": "zero"},
        **{"solver_order": 2, "predict_x0": True, "solver_type": "bh2"},
        **{"lower_order_final": True, "disable_corrector": [], "solver_p": None},
        **{"sigma_min": None, "sigma_max": None, "shift_terminal": None},
    },
    "DEISMultistepScheduler": {
        **{**UNSCALED, **THRESHOLD, **SIGMAS, **FLOW, **SHIFT},
        **{"solver_order": 2, "algorithm_type": "deis", "solver_type": "logrho"},
        "lower_order_final": True,
    },
    "LMSDiscreteScheduler": {**UNSCALED, **SIGMAS},
    "KDPM2DiscreteScheduler": {**UNSCALED, **LATENT, **SIGMAS},
    "KDPM2AncestralDiscreteScheduler": {**UNSCALED, **LATENT, **SIGMAS},
    "EulerDiscreteScheduler": {
        **{**TABLE, **SIGMAS, "interpolation_type": "linear", "timestep_type": "discrete"},
        **{"sigma_min": None, "sigma_max": None, "final_sigmas_type": "zero"},
    },
    "EulerAncestralDiscreteScheduler": {**TABLE, "timestep_spacing": "linspace"},
}
NEUTRAL: dict[str, Any] = {  # keys without a counterpart: only at the value that does nothing
    **{"trained_betas": None, "thresholding": False, "set_alpha_to_one": True},
    **{"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False},
    **{"final_sigmas_type": "zero", "lower_order_final": True, "use_lu_lambdas": False},
    **{"use_flow_sigmas": False, "use_dynamic_shifting": False, "shift_terminal": None},
    **{"lambda_min_clipped": -float("inf"), "interpolation_type": "linear"},
    **{"timestep_type": "discrete", "sigma_min": None, "sigma_max": None},
    **{"predict_x0": True, "solver_p": None},
}
_OURS = (
    "Put a DDIMScheduler with the same betas into the file, and after the import draw by `sfumato "
    "sample RUN --sampler {}`."
)
INSTEAD = {  # where it is not read, what to do
    "PNDMScheduler": _OURS.format("ipndm") + " That is PNDM without its costly start.",
    "IPNDMScheduler": _OURS.format("ipndm") + " diffusers' own walks a table of its own, whatever "
    "the network was trained on.",
    "HeunDiscreteScheduler": _OURS.format("heun"),
    "DPMSolverSinglestepScheduler": _OURS.format("dpm++2m")
    + " Or write DPMSolverMultistepScheduler: as many calls, of the same order.",
    "DPMSolverSDEScheduler": _OURS.format("sde-dpm++2m")
    + ' Or write DPMSolverMultistepScheduler with algorithm_type "sde-dpmsolver++".',
    "SASolverScheduler": _OURS.format("sde-dpm++2m"),
}
