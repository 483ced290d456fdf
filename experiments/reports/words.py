"""Names of fields in the words of a reader: what is not here is its name without underscores."""

WORDS = {
    "absolute": "root mean square error",
    "beta_estimate": "beta, as the snapshots' laws tell it",
    "beta_learned": "beta",
    "bw2_uvp": "unexplained variance of Gaussian fits (BW2-UVP), %",
    "c2st": "accuracy of a two-sample test (C2ST)",
    "condition_number": "condition number",
    "cut_off": "cut off",
    "dt": "time step",
    "emd": "EMD one step ahead",
    "emd_cumulative": "EMD from the first snapshot on",
    "emd_one_step_ahead": "EMD one step ahead",
    "eval": "judged by",
    "explanation": "energy distance to the next snapshot",
    "field_error": "errors against the truth",
    "floor": "sampling floor",
    "halved": "one half of the particles judges the other",
    "interaction_gradient": "gradient of the interaction",
    "kl": "Kullback-Leibler divergence",
    "l2_uvp": "unexplained variance (L2-UVP), %",
    "lookup_mean": "mean of the lookup",
    "mse": "mean squared error",
    "n_compared": "particles compared, by step",
    "n_transported": "particles of W1, by step",
    "nll": "negative log likelihood",
    "per_seed": "by seed",
    "per_step": "by step",
    "potential_gradient": "gradient of the potential",
    "psnr": "PSNR, dB",
    "p_value": "p-value",
    "relative": "relative error",
    "std": "standard deviation over seeds",
    "w1": "distance W1",
    "w1_one_step_ahead": "W1 one step ahead",
    "w2": "distance W2",
    "wasserstein_order": "order of the distance",
}


def words(name: str) -> str:
    """A field's name as a person would say it."""
    return WORDS.get(name, name.replace("_", " "))
