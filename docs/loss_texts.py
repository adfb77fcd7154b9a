"""What the page of each loss says beside what is read from its block: when to take it, its formula, and the same in other libraries.

In a formula t are targets, p predictions, z logits, y a label, n the number of elements along `axis`. A call of another library stands
beside one of ours that gives the same number, the mean over all samples; both are run by the tests. In them t, p, z, y are arrays (N, C),
but for labels y (N,).
"""

from typing import NamedTuple


class Text(NamedTuple):
    """Of one loss."""

    when: str
    formula: str  # LaTeX, as docutils turns it into MathML
    same: tuple[tuple[str, str, str], ...] = ()  # library, its call, ours


MEAN = ", reduction='sum_over_batch_size')"
F, KERAS, SKLEARN, OPTAX = "torch", "Keras", "scikit-learn", "optax"


def mean(call):
    """A call of ours with the mean over all samples as its reduction."""
    return call[:-1] + MEAN


TEXTS = {
    "mean_squared_error": Text(
        "The usual loss of regression: its best constant is the mean, and it is the likelihood of a normal distribution. Large errors "
        "weigh most; where some targets are wrong, take `huber`.",
        r"\frac{1}{n} \sum_i (p_i - t_i)^2",
        (
            (F, "F.mse_loss(p, t)", mean("pl.mean_squared_error(t, p)")),
            (KERAS, "keras.losses.mean_squared_error(t, p)", "pl.mean_squared_error(t, p)"),
            (SKLEARN, "metrics.mean_squared_error(t, p)", mean("pl.mean_squared_error(t, p)")),
            (OPTAX, "optax.squared_error(p, t)", mean("pl.mean_squared_error(t, p)")),
        ),
    ),
    "mean_absolute_error": Text(
        "Regression whose errors all count alike: its best constant is the median, which outliers hardly move. The gradient does not "
        "shrink near the target; `huber`, `pseudo_huber` and `log_cosh` are smooth there.",
        r"\frac{1}{n} \sum_i |p_i - t_i|",
        (
            (F, "F.l1_loss(p, t)", mean("pl.mean_absolute_error(t, p)")),
            (KERAS, "keras.losses.mean_absolute_error(t, p)", "pl.mean_absolute_error(t, p)"),
            (SKLEARN, "metrics.mean_absolute_error(t, p)", mean("pl.mean_absolute_error(t, p)")),
        ),
    ),
    "mean_absolute_percentage_error": Text(
        "To report forecasts of positive amounts in percent. To train on, prefer the logarithm (`mean_squared_logarithmic_error`) or "
        "`gamma_deviance`: this one draws predictions below the targets, and is huge where a target is near 0.",
        r"\frac{100}{n} \sum_i \frac{|t_i - p_i|}{\max(|t_i|, \varepsilon)}",
        (
            (KERAS, "keras.losses.mean_absolute_percentage_error(t, p)", "pl.mean_absolute_percentage_error(t, p)"),
            (SKLEARN, "100 * metrics.mean_absolute_percentage_error(t, p)", mean("pl.mean_absolute_percentage_error(t, p)")),
        ),
    ),
    "mean_squared_logarithmic_error": Text(
        "Amounts and counts over several powers of ten, where ratios matter and not differences. It punishes predictions that are too "
        "low more than those too high.",
        r"\frac{1}{n} \sum_i \left(\log(1 + \max(p_i, \varepsilon)) - \log(1 + \max(t_i, \varepsilon))\right)^2",
        (
            (KERAS, "keras.losses.mean_squared_logarithmic_error(t, p)", "pl.mean_squared_logarithmic_error(t, p)"),
            (SKLEARN, "metrics.mean_squared_log_error(t, p)", mean("pl.mean_squared_logarithmic_error(t, p)")),
        ),
    ),
    "huber": Text(
        "Regression with outliers: squared errors up to `delta`, in the unit of the targets, absolute ones beyond. `smooth_l1` is "
        "this loss divided by its `delta`.",
        r"\frac{1}{n} \sum_i \begin{cases} d_i^2 / 2 & |d_i| \le \delta \\ \delta (|d_i| - \delta / 2) & |d_i| > \delta \end{cases}"
        r" \qquad d = p - t",
        (
            (F, "F.huber_loss(p, t, delta=0.5)", mean("pl.huber(t, p, delta=0.5)")),
            (KERAS, "keras.losses.huber(t, p, delta=0.5)", "pl.huber(t, p, delta=0.5)"),
            (OPTAX, "optax.huber_loss(p, t, delta=0.5)", mean("pl.huber(t, p, delta=0.5)")),
        ),
    ),
    "smooth_l1": Text(
        "Regression with outliers, as detectors of objects use it for boxes: the slope beyond `beta` is 1 whatever `beta` is. "
        "`beta=0` is the absolute error.",
        r"\frac{1}{n} \sum_i \begin{cases} d_i^2 / (2 \beta) & |d_i| < \beta \\ |d_i| - \beta / 2 & |d_i| \ge \beta \end{cases}"
        r" \qquad d = p - t",
        ((F, "F.smooth_l1_loss(p, t, beta=0.5)", mean("pl.smooth_l1(t, p, beta=0.5)")),),
    ),
    "pseudo_huber": Text(
        "Regression with outliers where a second derivative is wanted, as in boosting: smooth everywhere, unlike `huber`. XGBoost's "
        "`reg:pseudohubererror`.",
        r"\frac{1}{n} \sum_i \delta^2 \left(\sqrt{1 + (d_i / \delta)^2} - 1\right) \qquad d = p - t",
    ),
    "log_cosh": Text(
        "Regression with outliers without a parameter to choose: half the squared error of a small difference, the absolute error "
        "less log 2 of a large one.",
        r"\frac{1}{n} \sum_i \log \cosh (p_i - t_i)",
        (
            (KERAS, "keras.losses.log_cosh(t, p)", "pl.log_cosh(t, p)"),
            (OPTAX, "optax.log_cosh(p, t)", mean("pl.log_cosh(t, p)")),
        ),
    ),
    "quantile_loss": Text(
        "To predict a quantile instead of a mean: a bound for delivery times, or an interval from 0.05 and 0.95. Several quantiles "
        "make several predictions of one target.",
        r"\frac{1}{n} \sum_i \max(q d_i, (q - 1) d_i) \qquad d = t - p",
        ((SKLEARN, "metrics.mean_pinball_loss(t, p, alpha=0.9)", mean("pl.quantile_loss(t, p, quantile=0.9)")),),
    ),
    "poisson": Text(
        "Counts, such as events per hour, from their predicted mean; from its logarithm with `log_input=True`, which needs no bound "
        "on the predictions. `poisson_deviance` is the same up to terms of the targets, and 0 where all is right.",
        r"\frac{1}{n} \sum_i \left(p_i - t_i \log p_i\right)",
        (
            (F, "F.poisson_nll_loss(z, t)", mean("pl.poisson(t, z, log_input=True)")),
            (F, "F.poisson_nll_loss(p, t, log_input=False, eps=1e-7)", mean("pl.poisson(t, p)")),
            (KERAS, "keras.losses.poisson(t, p)", "pl.poisson(t, p)"),
        ),
    ),
    "poisson_deviance": Text(
        "Counts, trained or scored so that a perfect prediction costs 0. Its gradient is twice that of `poisson`.",
        r"\frac{2}{n} \sum_i \left(t_i \log \frac{t_i}{p_i} - t_i + p_i\right)",
        ((SKLEARN, "metrics.mean_poisson_deviance(t.ravel(), p.ravel())", mean("pl.poisson_deviance(t, p)")),),
    ),
    "gamma_deviance": Text(
        "Positive amounts whose spread grows with their mean, such as claims or waiting times: only ratios count.",
        r"\frac{2}{n} \sum_i \left(\log \frac{p_i}{t_i} + \frac{t_i}{p_i} - 1\right)",
        ((SKLEARN, "metrics.mean_gamma_deviance(t.ravel(), p.ravel())", mean("pl.gamma_deviance(t, p)")),),
    ),
    "tweedie_deviance": Text(
        "Totals that are often exactly 0 and else positive, such as the cost of a policy: a `power` between 1 and 2. 0 is the squared "
        "error, 1 `poisson_deviance`, 2 `gamma_deviance`.",
        r"\frac{2}{n} \sum_i \left(\frac{t_i^{2 - k}}{(1 - k)(2 - k)} - \frac{t_i p_i^{1 - k}}{1 - k} + \frac{p_i^{2 - k}}{2 - k}\right)"
        r" \qquad k = \text{power}",
        ((SKLEARN, "metrics.mean_tweedie_deviance(t.ravel(), p.ravel(), power=1.5)", mean("pl.tweedie_deviance(t, p)")),),
    ),
    "gaussian_nll": Text(
        "Regression that says how sure it is: the model predicts a mean m and the logarithm v of a variance for each target.",
        r"\frac{1}{2} \left(v + \frac{(t - m)^2}{e^v}\right)",
        ((F, "F.gaussian_nll_loss(p[:, 0], t, p[:, 1].exp())", mean("pl.gaussian_nll(t, p)")),),
    ),
    "cosine_similarity": Text(
        "Embeddings, where the direction of a vector matters and not its length: -1 of equal directions, 1 of opposite ones.",
        r"-\frac{\sum_i t_i p_i}{\lVert t \rVert \lVert p \rVert}",
        (
            (F, "-F.cosine_similarity(p, t)", "pl.cosine_similarity(t, p)"),
            (KERAS, "keras.losses.cosine_similarity(t, p)", "pl.cosine_similarity(t, p)"),
            (SKLEARN, "-metrics.pairwise.cosine_similarity(t, p).diagonal()", "pl.cosine_similarity(t, p)"),
            (OPTAX, "-optax.cosine_similarity(p, t)", "pl.cosine_similarity(t, p)"),
        ),
    ),
    "binary_crossentropy": Text(
        "Two classes, or several labels that may hold at once, one number each. Take logits (`from_logits=True`) where you have them: "
        "they never saturate. `pos_weight` balances rare positives.",
        r"-\frac{1}{n} \sum_i \left(k\, t_i \log p_i + (1 - t_i) \log (1 - p_i)\right) \qquad k = \text{pos_weight}",
        (
            (F, "F.binary_cross_entropy(p, t)", mean("pl.binary_crossentropy(t, p)")),
            (
                F,
                "F.binary_cross_entropy_with_logits(z, t, pos_weight=torch.tensor(3.0))",
                mean("pl.binary_crossentropy(t, z, from_logits=True, pos_weight=3.0)"),
            ),
            (KERAS, "keras.losses.binary_crossentropy(t, p)", "pl.binary_crossentropy(t, p)"),
            (SKLEARN, "metrics.log_loss(t.ravel(), p.ravel())", mean("pl.binary_crossentropy(t, p)")),
            (OPTAX, "optax.sigmoid_binary_cross_entropy(z, t)", mean("pl.binary_crossentropy(t, z, from_logits=True)")),
        ),
    ),
    "binary_focal_crossentropy": Text(
        "Two classes of which one is rare, such as objects before a background: what is already right counts little, so that the many "
        "easy examples do not drown the few hard ones.",
        r"\frac{1}{n} \sum_i (1 - q_i)^\gamma \left(-\log q_i\right) \qquad q = \begin{cases} p & t = 1 \\ 1 - p & t = 0 \end{cases}",
        (
            (KERAS, "keras.losses.binary_focal_crossentropy(t, p)", "pl.binary_focal_crossentropy(t, p)"),
            (
                OPTAX,
                "optax.losses.sigmoid_focal_loss(z, t, gamma=2.0)",
                mean("pl.binary_focal_crossentropy(t, z, from_logits=True)"),
            ),
        ),
    ),
    "categorical_crossentropy": Text(
        "One of several classes, with targets that are one-hot or probabilities. Of logits `softmax_loss` is the same and does more; "
        "of integer labels take `sparse_categorical_crossentropy`.",
        r"-\sum_c t_c \log \frac{p_c}{\sum_j p_j}",
        (
            (F, "F.cross_entropy(z, t)", mean("pl.categorical_crossentropy(t, z, from_logits=True)")),
            (KERAS, "keras.losses.categorical_crossentropy(t, p)", "pl.categorical_crossentropy(t, p)"),
            (OPTAX, "optax.softmax_cross_entropy(z, t)", "pl.categorical_crossentropy(t, z, from_logits=True)"),
        ),
    ),
    "sparse_categorical_crossentropy": Text(
        "One of several classes, with integer labels and predicted probabilities. Of logits take `softmax_loss`.",
        r"-\log \frac{p_y}{\sum_j p_j}",
        (
            (F, "F.nll_loss(p.log(), y)", mean("pl.sparse_categorical_crossentropy(y, p)")),
            (KERAS, "keras.losses.sparse_categorical_crossentropy(y, p)", "pl.sparse_categorical_crossentropy(y, p)"),
            (SKLEARN, "metrics.log_loss(y, p, labels=range(5))", mean("pl.sparse_categorical_crossentropy(y, p)")),
            (
                OPTAX,
                "optax.softmax_cross_entropy_with_integer_labels(z, y)",
                "pl.sparse_categorical_crossentropy(y, z, from_logits=True)",
            ),
        ),
    ),
    "categorical_focal_crossentropy": Text(
        "One of several classes of which some are rare or hard; `alpha` may weigh each class.",
        r"-\sum_c \alpha_c (1 - p_c)^\gamma t_c \log p_c",
        ((KERAS, "keras.losses.categorical_focal_crossentropy(t, p)", "pl.categorical_focal_crossentropy(t, p)"),),
    ),
    "generalized_crossentropy": Text(
        "One of several classes where some labels are wrong: between the cross-entropy (`q` near 0), which learns fast and fits wrong "
        "labels too, and the absolute error (`q=1`), which does neither.",
        r"\frac{1 - p_y^q}{q}",
        ((KERAS, "keras.losses.categorical_generalized_cross_entropy(y, p, q=0.5)", "pl.generalized_crossentropy(y, p)"),),
    ),
    "brier": Text(
        "To score predicted probabilities where a confident error may not cost without a bound: between 0 and 2, least for the true "
        "probabilities.",
        r"\sum_c (p_c - t_c)^2",
        ((SKLEARN, "metrics.brier_score_loss(y, p, labels=range(5), scale_by_half=False)", mean("pl.brier(y, p)")),),
    ),
    "kl_divergence": Text(
        "To bring one distribution near another, as in distillation and variational inference. It differs from the cross-entropy by "
        "the entropy of the targets: 0 where they agree.",
        r"\sum_c t_c \log \frac{t_c}{p_c}",
        (
            (F, "F.kl_div(p.log(), t, reduction='batchmean')", mean("pl.kl_divergence(t, p)")),
            (KERAS, "keras.losses.kl_divergence(t, p)", "pl.kl_divergence(t, p)"),
            (OPTAX, "optax.kl_divergence(np.log(p), t)", "pl.kl_divergence(t, p)"),
        ),
    ),
    "softmax_loss": Text(
        "One of several classes from logits: the loss of classifiers, of segmentation and of language models. It ignores labels that "
        "you name, weighs classes, takes soft targets, and divides by what you say.",
        r"-\log \frac{e^{z_y}}{\sum_c e^{z_c}}",
        (
            (F, "F.cross_entropy(z, y)", "pl.softmax_loss(y, z)"),
            (KERAS, "keras.losses.sparse_categorical_crossentropy(y, z, from_logits=True)", "pl.softmax_loss(y, z, reduction='none')"),
            (OPTAX, "optax.softmax_cross_entropy_with_integer_labels(z, y)", "pl.softmax_loss(y, z, reduction='none')"),
        ),
    ),
    "linear_softmax_loss": Text(
        "The head of a language model: the loss of `softmax_loss` for logits that are features times a matrix, without ever holding "
        "all of them. At a vocabulary of 100000 they would be most of the memory.",
        r"-\log \frac{e^{x \cdot w_y}}{\sum_c e^{x \cdot w_c}}",
        (),
    ),
    "poly1_crossentropy": Text(
        "In place of the cross-entropy where a little accuracy is to be gained by tuning one number: `poly_epsilon` weighs the first "
        "term of its series in 1 - p.",
        r"-\log p_y + \epsilon_1 (1 - p_y) \qquad p = \text{softmax}(z)",
        ((OPTAX, "optax.losses.poly_loss_cross_entropy(z, np.eye(5)[y], epsilon=1.0)", "pl.poly1_crossentropy(y, z)"),),
    ),
    "hinge": Text(
        "Two classes with a margin, as in support vector machines: what is right by more than 1 costs nothing. Decisions are no "
        "probabilities; for those take `logistic` or `binary_crossentropy`.",
        r"\frac{1}{n} \sum_i \max(1 - t_i p_i, 0)",
        (
            (KERAS, "keras.losses.hinge(t, p)", "pl.hinge(t, p)"),
            (SKLEARN, "metrics.hinge_loss(t.ravel(), p.ravel())", mean("pl.hinge(t, p)")),
            (OPTAX, "optax.hinge_loss(p, t)", mean("pl.hinge(t, p)")),
        ),
    ),
    "squared_hinge": Text(
        "Two classes with a margin and a slope without a jump; wrong decisions cost more than in `hinge`.",
        r"\frac{1}{n} \sum_i \max(1 - t_i p_i, 0)^2",
        ((KERAS, "keras.losses.squared_hinge(t, p)", "pl.squared_hinge(t, p)"),),
    ),
    "categorical_hinge": Text(
        "Several classes with a margin, as Keras has it: of one-hot targets, where a largest wrong decision below 0 counts as 0. "
        "`multiclass_hinge` is the loss of the literature.",
        r"\max\left(\max_c (1 - t_c) p_c - \sum_c t_c p_c + 1,\, 0\right)",
        ((KERAS, "keras.losses.categorical_hinge(t, p)", "pl.categorical_hinge(t, p)"),),
    ),
    "multiclass_hinge": Text(
        "Several classes with a margin, as in support vector machines of several classes; with `average=True` every wrong class counts.",
        r"\max\left(0,\, m + \max_{j \ne y} z_j - z_y\right)^k \qquad m = \text{margin},\ k = \text{power}",
        (
            (F, "F.multi_margin_loss(z, y)", mean("pl.multiclass_hinge(y, z, average=True)")),
            (SKLEARN, "metrics.hinge_loss(y, z, labels=range(5))", mean("pl.multiclass_hinge(y, z)")),
            (OPTAX, "optax.losses.multiclass_hinge_loss(z, y)", "pl.multiclass_hinge(y, z)"),
        ),
    ),
    "logistic": Text(
        "Two classes as signs, -1 and 1: the binary cross-entropy of the logit p, written for decisions.",
        r"\frac{1}{n} \sum_i \log \left(1 + e^{-t_i p_i}\right)",
        ((F, "F.soft_margin_loss(p, t)", mean("pl.logistic(t, p)")),),
    ),
    "exponential": Text(
        "Two classes as signs, as AdaBoost weighs them: a wrong decision costs exponentially, so that wrong labels hurt. "
        'scikit-learn\'s `GradientBoostingClassifier(loss="exponential")`.',
        r"\frac{1}{n} \sum_i e^{-t_i p_i}",
    ),
    "dice": Text(
        "Segmentation where the object is small beside the background: it compares sets, so that the many pixels outside both count "
        "nothing. Often added to a cross-entropy.",
        r"1 - \frac{2 \sum_i t_i p_i}{\sum_i t_i + \sum_i p_i + 10^{-7}}",
        ((KERAS, "keras.losses.dice(t, p, axis=1)", "pl.dice(t, p, axis=1)"),),
    ),
    "tversky": Text(
        "Segmentation where a missed pixel and an extra one cost differently: `alpha` weighs what was missed, `beta` what is extra. "
        "Both 0.5: `dice`; both 1: `jaccard`.",
        r"1 - \frac{I}{I + \alpha \sum_i t_i (1 - p_i) + \beta \sum_i p_i (1 - t_i) + 10^{-7}} \qquad I = \sum_i t_i p_i",
        ((KERAS, "keras.losses.tversky(t, p, alpha=0.3, beta=0.7, axis=1)", "pl.tversky(t, p, alpha=0.3, beta=0.7, axis=1)"),),
    ),
    "jaccard": Text(
        "Segmentation that is scored by intersection over union: 1 less that, of probabilities.",
        r"1 - \frac{I}{\sum_i t_i + \sum_i p_i - I + 10^{-7}} \qquad I = \sum_i t_i p_i",
        ((SKLEARN, "1 - metrics.jaccard_score(hard[0], hard[1])", "pl.jaccard(hard[0], hard[1])"),),
    ),
    "log_loss": Text(
        "To score predicted probabilities of classes, numbers or words, as scikit-learn and Kaggle do. It returns a Python float and "
        "has no gradient; to train, take `sparse_categorical_crossentropy` or `softmax_loss`.",
        r"-\frac{1}{N} \sum_i \log p_{i, y_i}",
        (
            (F, "F.nll_loss(p.log(), y)", "pl.log_loss(y, p, labels=range(5))"),
            (SKLEARN, "metrics.log_loss(y, p, labels=range(5))", "pl.log_loss(y, p, labels=range(5))"),
        ),
    ),
}
