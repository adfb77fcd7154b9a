"""How every kernel is called: `Kernel.bind` takes all facts of a call but its data, once; what it gives, `Bound`, takes the data.

The facts are the loss, lengths, element types and strides, and the options. Three parts of this module are files of their own, included
rather than imported so that the loops of a small call stay in one piece of C: isas.pxi chooses the instruction set, arrays.pxi finds the
arrays' types and strides and makes one axis of those that lie as one, tasks.pxi shares the tasks out to threads.

Tasks depend on shapes, strides and types alone and their sums are added in their order: the bits are the same for any number of threads.
Work of microseconds stays on the calling thread, with scratch on the stack. Nothing that computes needs the interpreter's lock: who holds
it lets go of it for longer work, and XLA's threads never take it.
"""
cimport numpy as cnp
from cpython.long cimport PyLong_AsVoidPtr
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

import numpy as np

cnp.import_array()

include "cpu/isas.pxi"
include "cpu/arrays.pxi"
include "cpu/tasks.pxi"

cdef extern from "Python.h":
    bint PyLong_CheckExact(object)

cdef extern from *:
    """
    #define DECLARE_(isa) extern const kernel_loops label_loops_##isa;
    POLYLOSS_ISAS(DECLARE_)
    #define LISTED_(isa) &label_loops_##isa,
    static const kernel_loops *const label_builds[] = {POLYLOSS_ISAS(LISTED_)};
    """
    const kernel_loops *const *label_builds

cdef tuple NAMES = ("t", "p", "weight", "class_weight", "losses", "grad", "hess", "prob")  # in the order of AT_T …
cdef tuple AXES = ("ncs", "ncs", "ns", "c", "ns", "ncs", "ncs", "ncs")


cdef const kernel_loops *label_loops() noexcept nogil:
    """Those of sums that need targets and weights alone."""
    return label_builds[isa_used]


cdef double number_at(const strided_array *x, Py_ssize_t n, Py_ssize_t s) noexcept nogil:
    cdef char *at = x.at + n * x.n + s * x.s
    return (<double *>at)[0] if x.type == TYPE_F64 else (<float *>at)[0]


cdef class Bound:
    """A kernel with all that a call needs but its data; see `Kernel.bind`. It is never written to: threads may share one."""

    cdef bint is_long(self) noexcept nogil:
        return is_long(self.builds[isa_used], self.elements)

    cdef int run(self, char **at, double scale, kernel_sums *found) noexcept nogil:
        """Evaluate; at[AT_T] … are the arrays' addresses, NULL where none was bound. They are trusted. Not 0 where memory is short."""
        cdef kernel_job job = self.job
        cdef const kernel_loops *loops = self.builds[isa_used]
        cdef double weight = 1
        cdef kernel_sums *each = NULL
        cdef int i, binary, failed = 0
        for i in range(ARRAYS):
            job.arrays[i].at = at[i]
        if self.elements == 0 and (self.positions == 0 or loops.order != KEEP_ORDER):
            return self.nothing(&job, at, found)
        if self.one_weight:
            weight = number_at(&job.weight, 0, 0)
        job.scale = scale * job.mean
        if isa_used != self.isa:
            loops.cut(&job)
        if self.ask_labels:
            job.parameters[0] = 2  # taken for granted; the sum is NaN if a target says otherwise
            if job.tasks == 1 or self.looks_other(&job):
                binary = self.is_binary(at)
                if binary < 0:
                    return 1
                job.parameters[0] = binary
        if job.between:
            return self.visit_twice(loops, &job, found)
        if job.segments > 1:
            each = <kernel_sums *>malloc(job.tasks * sizeof(kernel_sums))
            if each == NULL:
                return 1
        failed = self.visit(loops, &job, found, each)
        if not failed and self.ask_labels and job.parameters[0] == 2 and found.total != found.total:
            binary = self.is_binary(at)
            job.parameters[0] = binary
            failed = binary < 0 or self.visit(loops, &job, found, each)
        free(each)
        if failed:
            return 1
        if loops.order == REORDER_ELEMENTS:
            if self.job.weight.type < 0 or self.one_weight:
                found.weights = weight * self.positions
            if weight == 0:
                found.total = 0  # whatever lies there
            found.count = self.positions
        return 0

    cdef void clear(self, char **at) noexcept nogil:
        """Derivatives of 0: all at once where they lie together, else a line at a time where a line is whole."""
        cdef const strided_array *x
        cdef Py_ssize_t n, c, s, size, rows = self.job.n, classes = self.job.c, across = self.job.s
        cdef bint by_class, by_place, dense
        cdef char *row
        cdef int i
        for i in range(AT_GRAD, AT_HESS + 1):
            x = &self.job.arrays[i]
            if at[i] == NULL:
                continue
            size = ITEMSIZE[x.type]
            by_class = (classes == 1 or x.c == size) and (across == 1 or x.s == classes * size)
            by_place = (across == 1 or x.s == size) and (classes == 1 or x.c == across * size)
            dense = self.job.run >= classes and (rows == 1 or x.n == classes * across * size)
            if dense and (by_class or by_place):
                memset(at[i], 0, rows * classes * across * size)
                continue
            for n in range(rows):
                row = at[i] + n * x.n
                if x.c == size and self.job.run >= classes:
                    for s in range(across):
                        memset(row + s * x.s, 0, classes * size)
                    continue
                for c in range(classes):
                    if x.s == size:
                        memset(row + c // self.job.run * x.run + c % self.job.run * x.c, 0, across * size)
                        continue
                    for s in range(across):
                        memset(row + c // self.job.run * x.run + c % self.job.run * x.c + s * x.s, 0, size)

    cdef int visit(self, const kernel_loops *loops, const kernel_job *job, kernel_sums *found, kernel_sums *each) noexcept nogil:
        """Every task, and the losses of rows that are cut into segments, of which `each` has the sums."""
        if perform(loops, job, self.elements, self.threads, found, each):
            return 1
        if each != NULL:
            join_segments(job, found, each)
        return 0

    cdef int visit_twice(self, const kernel_loops *loops, kernel_job *job, kernel_sums *found) noexcept nogil:
        """Sums over all tasks, before the tasks of derivatives, which depend on them."""
        cdef kernel_sums none
        cdef int failed
        job.kept = malloc(job.between)
        if job.kept == NULL:
            return 1
        failed = perform(loops, job, self.elements, self.threads, found, NULL)
        if not failed:
            loops.join(job, found)
            if job.grad.at != NULL or job.hess.at != NULL:
                failed = perform(loops.second, job, self.elements, self.threads, &none, NULL)
        free(job.kept)
        return failed

    cdef int nothing(self, kernel_job *job, char **at, kernel_sums *found) noexcept nogil:
        """The sums where there is no element: every loss is 0."""
        cdef Py_ssize_t n, s
        if job.losses.at != NULL:
            for n in range(job.n):
                for s in range(job.s):
                    if job.losses.type == TYPE_F64:
                        (<double *>(job.losses.at + n * job.losses.n + s * job.losses.s))[0] = 0
                    else:
                        (<float *>(job.losses.at + n * job.losses.n + s * job.losses.s))[0] = 0
        start(found)
        found.count = found.weights = self.positions
        if job.weight.at != NULL:
            found.weights = 0
            for n in range(job.n):
                for s in range(job.s):
                    found.weights += number_at(&job.weight, n, s)
        return 0

    cdef int label_sums(self, char **at, kernel_sums *found) noexcept nogil:
        """Of targets and weights alone: weights, count and bad, as `run` finds them; in total the sum of the positions' weights.

        For soft targets of a softmax loss `weights` has the targets and their class weights in it."""
        cdef kernel_job job = self.job
        cdef int i
        for i in range(ARRAYS):
            job.arrays[i].at = at[i]
        if self.job.weight.type < 0 and not job.labelled and not job.soft or self.one_weight:
            start(found)
            found.count = self.positions
            found.total = found.weights = self.positions * (number_at(&job.weight, 0, 0) if self.one_weight else 1)
            return 0
        label_builds[isa_used].cut(&job)
        return perform(label_builds[isa_used], &job, self.positions * (job.c if job.soft else 1), self.threads, found, NULL)

    cdef bint looks_other(self, const kernel_job *job) noexcept nogil:
        """Whether a target in the first task is neither 0 nor 1."""
        cdef const kernel_loops *binary = self.builds[isa_used].binary
        cdef kernel_job targets = job[0]
        cdef kernel_sums sums
        self.targets_alone(&targets, False)
        binary.cut(&targets)
        start(&sums)
        binary.task(&targets, 0, NULL, &sums)
        return sums.count > 0

    cdef void targets_alone(self, kernel_job *job, bint weighted) noexcept nogil:
        """A job that looks at targets, in the dtype of the computation, at positions of weight other than 0 if weighted."""
        cdef int i
        for i in range(ARRAYS):
            if i != AT_T and not (weighted and i == AT_WEIGHT):
                job.arrays[i].at = NULL
                job.arrays[i].type = -1
        lay(job, REORDER_POSITIONS if weighted else REORDER_ELEMENTS, AT_T)
        job.columns = False

    cdef int is_binary(self, char **at) noexcept nogil:
        """Whether every target at a weight other than 0 is 0 or 1: Keras' rule for the labels of hinge losses. -1 where memory is short."""
        cdef const kernel_loops *binary = self.builds[isa_used].binary
        cdef kernel_job job
        cdef kernel_sums sums
        cdef int weighted
        for weighted in range(1 + (at[AT_WEIGHT] != NULL)):  # weights only matter where the whole array is not binary
            job = self.job
            job.t.at, job.weight.at = at[AT_T], at[AT_WEIGHT]
            self.targets_alone(&job, weighted)
            binary.cut(&job)
            start(&sums)
            binary.task(&job, 0, NULL, &sums)  # most often the first part tells
            if sums.count == 0 and perform(binary, &job, self.elements, self.threads, &sums, NULL):
                return -1
            if sums.count == 0:
                return 1
        return 0

    cdef int addresses(self, char **at, tuple given) except -1:
        """Put at `at` where arrays lie; an error unless they are like those that were bound. Integers are addresses, and trusted."""
        cdef int i
        for i in range(ARRAYS):
            at[i] = self.address(i, given[i])
        return 0

    cdef char *address(self, int i, object x) except? NULL:
        cdef cnp.ndarray array
        if (x is None) != (self.job.arrays[i].type < 0):
            raise TypeError(f"{self.name} was bound {'without' if x is not None else 'with'} {NAMES[i]}")
        if x is None:
            return NULL
        if PyLong_CheckExact(x):
            return <char *>PyLong_AsVoidPtr(x)
        array = x
        if cnp.PyArray_ITEMSIZE(array) != ITEMSIZE[self.job.arrays[i].type] or cnp.PyArray_SIZE(array) != self.sizes[i]:
            raise TypeError(f"{NAMES[i]} is {x.dtype} of shape {x.shape}, not what {self.name} was bound to")
        if i >= AT_LOSSES and not cnp.PyArray_ISWRITEABLE(array):
            raise ValueError(f"{NAMES[i]} is read-only")
        return <char *>cnp.PyArray_DATA(array)

    cdef int call(self, char **at, double scale, kernel_sums *found) except -1:
        """`run`, called with the interpreter's lock, which it releases during long work."""
        cdef int failed
        if self.is_long():
            with nogil:
                failed = self.run(at, scale, found)
        else:
            failed = self.run(at, scale, found)
        if failed:
            raise MemoryError
        return 0

    def __call__(self, t, p, weight=None, class_weight=None, losses=None, grad=None, hess=None, prob=None, double scale=1.0):
        """Evaluate.

        Parameters
        ----------
        t, p, weight, class_weight, losses, grad, hess, prob : ndarray or int
            The arrays that were bound, of any shape that has the bound strides, or their addresses. `losses`, `grad`, `hess` and `prob` are
            written to, and must not overlap the inputs. `grad` alone may be the memory of `p`, at its strides: of losses of sets, and of
            the softmax losses that `softmax_xent.fused` names.
        scale : float
            Factor of the derivatives.

        Returns
        -------
        total : float
            Σ w l.
        weights : float
            Σ w of the positions not ignored; for the softmax losses Σ w k[label], or Σ w k t of soft targets.
        count : int
            Of the positions not ignored.
        bad : int
            Least flat index (n, s) of a label that is neither a class nor ignored, or -1. Its loss and derivatives are NaN.
        """
        cdef char *at[ARRAYS]
        cdef kernel_sums found
        self.addresses(at, (t, p, weight, class_weight, losses, grad, hess, prob))
        self.call(at, scale, &found)
        return found.total, found.weights, found.count, found.bad

    def sums(self, t, weight=None, class_weight=None):
        """(weights, count, bad) as calls find them, and Σ w, from targets and weights alone."""
        cdef char *at[ARRAYS]
        cdef kernel_sums found
        cdef int failed
        memset(at, 0, sizeof(at))
        at[AT_T], at[AT_WEIGHT] = self.address(AT_T, t), self.address(AT_WEIGHT, weight)
        at[AT_CLASS_WEIGHT] = self.address(AT_CLASS_WEIGHT, class_weight)
        with nogil:
            failed = self.label_sums(at, &found)
        if failed:
            raise MemoryError
        return found.weights, found.count, found.bad, found.total


cdef void join_segments(const kernel_job *job, kernel_sums *found, const kernel_sums *each) noexcept nogil:
    """Losses of long rows, whose segments were summed without weights."""
    cdef Py_ssize_t n, s, k
    cdef double total, weight
    cdef char *at
    found.total = 0
    for n in range(job.n):
        for s in range(job.s):
            total = 0
            for k in range(job.segments):
                total += each[(n * job.s + s) * job.segments + k].total
            total *= job.mean
            if job.weight.at != NULL:
                weight = number_at(&job.weight, n, s)
                total = 0 if weight == 0 else total * weight
            if job.losses.at != NULL:
                at = job.losses.at + n * job.losses.n + s * job.losses.s
                if job.losses.type == TYPE_F64:
                    (<double *>at)[0] = total
                else:
                    (<float *>at)[0] = <float>total
            found.total += total


cdef class Kernel:
    """The losses of one table of loops, by name.

    Attributes
    ----------
    numbers : dict
        Name of a loss -> its place in the list.
    parameters : dict
        Name of a loss -> names of its parameters.
    """

    cdef int fill(self, const kernel_loops *const *builds, const listed_loss *losses, int count) except -1:
        self.builds = builds
        self.numbers = {losses[i].name.decode(): i for i in range(count)}
        self.parameters = {losses[i].name.decode(): tuple(losses[i].parameters.decode().split()) for i in range(count)}
        self.labels = {losses[i].name.decode(): losses[i].labels for i in range(count)}
        return 0

    def bind(self, str name, Py_ssize_t n, Py_ssize_t c, Py_ssize_t s, t, p, weight=None, class_weight=None, losses=None, grad=None,
             hess=None, prob=None, *, parameters=(), ignore=(), str combine="mean", bint over=False, Py_ssize_t runs=1, int threads=1):
        """A kernel with all that a call needs but its data.

        Parameters
        ----------
        name : str
            A key of `parameters`.
        n, c, s : int
            Lengths of canonical arrays.
        t, p, grad, hess, prob : (type, strides)
            Of arrays (n, c, s), or (n, s) for labels and for one number at each position: the element type, as "f4", "f8", "f2", "bf16",
            "b1", "i8" or "u1", and the strides in bytes. Predictions are floating; float64 is computed in float64, all else in float32.
            Outputs have the type of `p`, and are optional. Labels are compared as mathematical integers. Of sets in several runs: of arrays
            (n, runs, c / runs, s).
        weight : (type, strides), optional
            Of the positions (n, s), "f4" or "f8". Weight 0 skips a position: it adds 0 and its derivatives are 0, whatever lies there.
        class_weight : (type, strides), optional
            (c,), of the softmax losses alone.
        losses : (type, strides), optional
            (n, s), in the type of the computation.
        parameters : sequence of numbers
            The loss's parameters, in the order of the attribute. `zero_one` may be None: 1 if all targets are 0 or 1, which is then found
            out on the way.
        ignore : sequence of int
            Labels to skip, inside or outside of 0 … c - 1.
        combine : {"mean", "sum"}
            How the elements of a position make its loss, where it is a loss of elements.
        runs : int
            Of sets alone: their elements are cut into so many runs of one length, and each array has a stride from run to run, too.
        over : bool
            Whether `grad` will be the memory of `p`.
        threads : int
            At most so many threads; small work takes one. No result depends on it.

        Returns
        -------
        Bound
        """
        cdef Bound bound = Bound.__new__(Bound)
        cdef kernel_job *job = &bound.job
        cdef int order = self.builds[0].order, i
        cdef int labels = self.labels[name]
        cdef bint apart
        memset(job, 0, sizeof(kernel_job))
        job.n, job.c, job.s, job.classes, job.run = n, c, s, c, c // runs
        job.flat_n, job.flat_s = s, 1
        job.loss = self.numbers[name]
        bound.name, bound.builds, bound.threads = name, self.builds, threads
        bound.positions, bound.elements = n * s, n * c * s
        given = (t, p, weight, class_weight, losses, grad, hess, prob)
        if t is None or p is None:
            raise TypeError(f"{name} needs targets and predictions")
        if labels == 3 and c != 2:
            raise ValueError(f"{name} takes two predictions for each target, not {c}")
        job.labelled = labels == 1 or labels == 2 and t[0][0] in "iu"
        job.soft = labels == 2 and not job.labelled
        if runs != 1 and (self.builds[0].join == NULL or job.run * runs != c):
            raise ValueError(f"{name} takes no {c} elements in {runs} runs")
        for i in range(ARRAYS):
            axes = "ns" if i == AT_T and (job.labelled or labels == 3) else <str>AXES[i]
            axes = "nrcs" if runs > 1 and axes == "ncs" else axes
            describe(&job.arrays[i], given[i], axes, n, c, s, <str>NAMES[i])
            bound.sizes[i] = c if axes == "c" else n * s * (c if "c" in axes else 1)
        check_types(job, order == KEEP_ORDER, given)
        job.doubles = job.p.type == TYPE_F64
        job.over = over
        job.mean = 1.0 / c if order == REORDER_ELEMENTS and combine == "mean" and c else 1.0
        take_parameters(bound, name, self.parameters[name], tuple(parameters))
        if job.labelled:
            if c > 0x7FFFFFFF:
                raise ValueError(f"{c} classes: labels are kept in 32 bits")
            bound.ignore = ignored(job, ignore, t[0])
        bound.one_weight = order == REORDER_ELEMENTS and weight is not None and losses is None and job.weight.n == 0 == job.weight.s
        apart = losses is not None or (weight is not None and not bound.one_weight)
        if runs > 1:
            merge_runs(job)
        lay(job, REORDER_POSITIONS if order == REORDER_ELEMENTS and apart else order, AT_P)
        job.columns = job.columns and (apart or order != REORDER_ELEMENTS)
        bound.isa = isa_used
        if bound.elements or order == KEEP_ORDER:
            self.builds[isa_used].cut(job)
        return bound

    def run(self, str name, cnp.ndarray t, cnp.ndarray p, parameters=(), *, bint bf16=False, weight=None, class_weight=None, losses=None,
            grad=None, hess=None, prob=None, double scale=1.0, ignore=(), str combine="mean", int threads=1):
        """Bind to these arrays, and call: see `bind` and `Bound`. bf16: `p`, `grad`, `hess` and `prob` hold bits of bfloat16 as uint16."""
        cdef Bound bound
        cdef char *at[ARRAYS]
        cdef kernel_sums found
        cdef str all_axes = "nrcs" if cnp.PyArray_NDIM(p) == 4 else "ncs"
        if cnp.PyArray_NDIM(p) not in (3, 4):
            raise ValueError(f"p has shape {(<object>p).shape}, not (n, c, s)")
        cdef int labels = self.labels[name]
        cdef bint of_positions = labels == 1 or labels == 3 or labels == 2 and (<object>t).dtype.kind != "f"
        cdef tuple given = (t, p, weight, class_weight, losses, grad, hess, prob)
        cdef list known = [None] * ARRAYS
        cdef str axes
        cdef tuple lengths = (<object>p).shape
        cdef Py_ssize_t k, runs = 1 if len(lengths) == 3 else lengths[1]
        cdef int i
        for i in range(ARRAYS):
            x = given[i]
            if x is None:
                continue
            axes = "ns" if i == AT_T and of_positions else <str>AXES[i]
            axes = all_axes if axes == "ncs" else axes
            known[i] = facts(x, axes, NAMES[i], bf16 and AT_P <= i <= AT_PROB and i not in (AT_WEIGHT, AT_CLASS_WEIGHT, AT_LOSSES))
            for k in range(len(axes)):
                if cnp.PyArray_DIM(x, k) != lengths[all_axes.index(axes[k])]:
                    shape = tuple([lengths[all_axes.index(axis)] for axis in axes])
                    raise ValueError(f"{NAMES[i]} has shape {x.shape}, not {shape}")
        cdef bint over = grad is not None and cnp.PyArray_DATA(grad) == cnp.PyArray_DATA(p)
        bound = self.bind(name, lengths[0], lengths[len(lengths) - 2] * runs, lengths[len(lengths) - 1], *known, parameters=parameters,
                          ignore=ignore, combine=combine, over=over, runs=runs, threads=threads)
        bound.addresses(at, given)
        bound.call(at, scale, &found)
        return found.total, found.weights, found.count, found.bad


cdef int check_types(const kernel_job *job, bint exact, tuple given) except -1:
    """Raise TypeError unless predictions and weights are floating, losses of the type of the computation, derivatives like predictions.

    exact: weights and soft targets are of the type of the computation, too."""
    cdef int real = TYPE_F64 if job.p.type == TYPE_F64 else TYPE_F32, i
    if job.p.type > TYPE_BF16:
        raise TypeError(f"p is {given[AT_P][0]}, not floating")
    if job.labelled and job.t.type < TYPE_I8:
        raise TypeError(f"t is {given[AT_T][0]}, but labels are integers")
    if job.soft and job.t.type != real:
        raise TypeError(f"t is {given[AT_T][0]}, not of the type of the computation")
    for i in (AT_WEIGHT, AT_CLASS_WEIGHT, AT_LOSSES):
        if job.arrays[i].type > TYPE_F64 or (job.arrays[i].type >= 0 and job.arrays[i].type != real and (exact or i == AT_LOSSES)):
            raise TypeError(f"{NAMES[i]} is {given[i][0]}, not of the type of the computation")
    for i in (AT_GRAD, AT_HESS, AT_PROB):
        if job.arrays[i].type >= 0 and job.arrays[i].type != job.p.type:
            raise TypeError(f"{NAMES[i]} is {given[i][0]}, not {given[AT_P][0]} as p")
    return 0


cdef int take_parameters(Bound bound, str name, tuple names, tuple parameters) except -1:
    cdef int k
    if len(parameters) != len(names):
        raise TypeError(f"{name} takes the parameters {names}, not {len(parameters)}")
    bound.ask_labels = names == ("zero_one",) and parameters[0] is None
    for k in range(len(names)):
        bound.job.parameters[k] = 0 if bound.ask_labels else parameters[k]
    return 0


cdef object ignored(kernel_job *job, ignore, str code):
    """The ignore values that the labels' type can hold, as an array that the job points into: so -1 is not 2**64 - 1."""
    cdef int64_t[::1] values
    low, high = (0, 1) if code == "b1" else (np.iinfo(code).min, np.iinfo(code).max)
    held = [int(v) - 2**64 if v >= 2**63 else int(v) for v in ignore if low <= v <= high]
    values = np.array(held or [0], np.int64)
    job.ignore, job.ignored = &values[0], len(held)
    return values
