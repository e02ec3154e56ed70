// The steps of autograd of one Cast, and of a linear layer with the casts of its weight, its bias and its result, in C++: recorded.py builds them
// against the torch that runs, and step.py says what the first stands in for.
//
// The arithmetic is that of native.cpp, whose entries come as addresses; here is only what autograd wants: what is saved, and where gradients go.
#include <Python.h>

#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/basic_ops.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/version.h>

#include <cmath>
#include <mutex>

using at::Tensor;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

PyObject* THPVariable_Wrap(const at::TensorBase& tensor);  // of torch_python; its header would double the time to compile

namespace {

struct Plan {  // native_cast.h
    double min_raw, max_raw, negative_slope, upper;
    int32_t width, n, is_signed, is_symmetric, least_frac_bits, greatest_frac_bits;
};

typedef int (*Forward)(const Plan*, void*, const void*, const void*, const void*, const void*, const double*, const double*, int64_t, int64_t, int64_t, int);
typedef int (*Backward)(const Plan*, void*, void*, const void*, const void*, const void*, const void*, const void*, const double*, const double*, int64_t,
                        int64_t, int64_t, int, double, void*, void*, double*, double*);

struct Entry {  // recorded.py mirrors it
    Forward forward;
    Backward backward;
    int64_t outer, channels, inner;  // inner 0: a plain Cast of a float32 tensor without gaps, whatever its shape and the order of its axes
    int32_t flags, is_channels_last, is_wide, reserved;
    Plan plan;
};

enum { X, FRAC, WORDS, SCALE, SHIFT, ADDEND, INPUTS };
const int64_t PARALLEL_FROM = 65536;
const int THREADS_SHIFT = 8;

int flags_of(const Entry& entry, int64_t count) {
    return entry.flags | (count < PARALLEL_FROM ? 1 : at::get_num_threads()) << THREADS_SHIFT;
}

bool is_channels_last(const Tensor& t) { return t.dim() == 4 && !t.is_contiguous() && t.is_contiguous(at::MemoryFormat::ChannelsLast); }

Tensor laid_out(const Tensor& t, bool channels_last) { return t.contiguous(channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous); }

const void* data(const Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; }
void* room(const Tensor& t) { return t.defined() ? t.mutable_data_ptr() : nullptr; }
Tensor as_double(const Tensor& t) { return t.defined() ? t.to(at::kDouble).contiguous() : t; }
double* doubles(const Tensor& t) { return t.defined() ? static_cast<double*>(t.mutable_data_ptr()) : nullptr; }

// A node of `inputs` tensors, which can be differentiated once.
struct Once : public Node {
    static const int MOST = 8;
    int inputs;
    SavedVariable saved[MOST];

    void save(const Tensor* in, int count) {
        inputs = count;
        for (int i = 0; i < count; i++) saved[i] = SavedVariable(in[i], false);
    }

    // The gradients of the inputs by that of the result. `in`: what was saved.
    virtual variable_list gradients(Tensor grad, Tensor* in) = 0;

    void release_variables() override {
        std::lock_guard<std::mutex> lock(mutex_);
        for (int i = 0; i < inputs; i++) saved[i].reset_data();
    }

    variable_list apply(variable_list&& grads) override {
        std::lock_guard<std::mutex> lock(mutex_);
        Tensor in[MOST];
        for (int i = 0; i < inputs; i++) in[i] = saved[i].unpack();
        Tensor grad = grads[0];
        bool again = at::GradMode::is_enabled();
        if (again) {
            again = grad.defined() && grad.requires_grad();
            for (int i = 0; i < inputs; i++) again = again || (in[i].defined() && in[i].requires_grad());
        }
        variable_list found;
        {
            at::NoGradGuard no_grad;
            if (!grad.defined()) grad = input_metadata(0).zeros_like();
            TORCH_CHECK(grad.has_storage() && grad.device().is_cpu(), "the gradient of a fixed-point cast is taken of plain tensors, one after the other");
            found = gradients(grad.resolve_neg(), in);
        }
        if (!again) return found;
        variable_list delayed;  // a second derivative is refused once somebody asks for it, as by torch's once_differentiable
        for (Tensor& t : found) delayed.push_back(t.defined() ? t.detach().set_requires_grad(true) : t);
        torch::autograd::DelayedError refusal("trying to differentiate twice a function that was marked with @once_differentiable", int64_t(delayed.size()));
        return refusal.apply(std::move(delayed));
    }
};

const char* const LEFT = "a binary point left the range of its type between forward and backward, or there is no memory";

struct Step : public Once {
    Entry entry;
    double frac_grad_scale;

    std::string name() const override { return "StepBackward"; }

    variable_list gradients(Tensor grad, Tensor* in) override {
        const bool flat = entry.inner == 0, last = flat ? is_channels_last(in[X]) : entry.is_channels_last;
        grad = laid_out(grad, last);
        Tensor x = laid_out(in[X], last), addend = in[ADDEND], frac = in[FRAC].contiguous(), words = in[WORDS];
        if (addend.defined()) addend = laid_out(addend, last);
        if (words.defined()) words = words.contiguous();
        Tensor scale = as_double(in[SCALE]), shift = as_double(in[SHIFT]);
        Tensor by_x = at::empty_like(x), by_addend, by_frac, by_words, by_scale, by_shift;
        if (addend.defined()) by_addend = at::empty_like(x);
        bool parameters = false;
        for (int i = FRAC; i <= SHIFT && i < inputs; i++) parameters = parameters || task_should_compute_output(i);
        if (parameters) {
            by_frac = at::empty_like(frac);
            if (words.defined()) by_words = at::empty_like(words);
            if (scale.defined()) by_scale = at::empty_like(scale);
            if (shift.defined()) by_shift = at::empty_like(shift);
        }
        const int64_t count = x.numel();
        int status = entry.backward(&entry.plan, room(by_x), room(by_addend), data(grad), data(x), data(addend), data(frac), data(words), doubles(scale),
                                    doubles(shift), flat ? 1 : entry.outer, flat ? 1 : entry.channels, flat ? count : entry.inner,
                                    flags_of(entry, count), frac_grad_scale, room(by_frac), room(by_words), doubles(by_scale), doubles(by_shift));
        TORCH_CHECK(status == 0, LEFT);
        if (by_scale.defined()) by_scale = by_scale.to(in[SCALE].scalar_type());
        if (by_shift.defined()) by_shift = by_shift.to(in[SHIFT].scalar_type());
        variable_list found = {by_x, by_frac, by_words, by_scale, by_shift, by_addend};
        found.resize(inputs);
        return found;
    }
};

// Room for a float32 tensor like one without gaps; a dispatched empty_like takes longer than the cast of a bias.
Tensor room_like(const Tensor& t) { return Tensor(at::detail::empty_cpu(t.sizes(), at::kFloat)); }

// The constant of a linear layer with its cast: of the common case, a contiguous float32 tensor and one binary point.
struct Held {
    const Entry* entry;
    double frac_grad_scale;

    Tensor cast(const Tensor& constant, const Tensor& frac) const {  // not defined: the cast refused
        Tensor out = room_like(constant);
        const int64_t size = constant.numel();
        const int status = entry->forward(&entry->plan, room(out), data(constant), nullptr, data(frac), nullptr, nullptr, nullptr, 1, 1, size, flags_of(*entry, size));
        return status ? Tensor() : out;
    }

    void gradients(const Entry& kept, Tensor grad, const Tensor& constant, const Tensor& frac, Tensor& by_constant, Tensor& by_frac, bool wants_frac) const {
        grad = grad.contiguous();
        TORCH_CHECK(grad.scalar_type() == at::kFloat, "qfx: a gradient of another type than float32");
        by_constant = room_like(constant);
        if (wants_frac) by_frac = room_like(frac);
        const int64_t size = constant.numel();
        const int status = kept.backward(&kept.plan, room(by_constant), nullptr, data(grad), data(constant), nullptr, data(frac), nullptr, nullptr, nullptr, 1,
                                         1, size, flags_of(kept, size), frac_grad_scale, room(by_frac), nullptr, nullptr, nullptr);
        TORCH_CHECK(status == 0, LEFT);
    }
};

// x * cast(weight)^T + cast(bias), with a cast of the result or without, and the gradients that torch's own addmm and the casts would give one after
// the other, in the same order of sums.
struct Linear : public Once {
    enum { IN, WEIGHT, WEIGHT_FRAC, BIAS, BIAS_FRAC, RESULT_FRAC, EDGES, CAST = EDGES, SUMS, KEPT };
    Held weight, bias, result;
    Entry weight_entry, bias_entry, result_entry;  // copies: the layer may be gone by the backward pass

    std::string name() const override { return "LinearStepBackward"; }

    variable_list gradients(Tensor grad, Tensor* in) override {
        const c10::impl::ExcludeDispatchKeyGuard as_they_are(c10::autocast_dispatch_keyset);  // autocast, where the backward pass runs in it
        variable_list found(EDGES);
        if (in[SUMS].defined()) {
            Tensor by_sums;
            result.gradients(result_entry, grad, in[SUMS], in[RESULT_FRAC], by_sums, found[RESULT_FRAC], task_should_compute_output(RESULT_FRAC));
            grad = by_sums;
        }
        if (task_should_compute_output(IN)) found[IN] = at::mm(grad, in[CAST]);
        if (task_should_compute_output(WEIGHT) || task_should_compute_output(WEIGHT_FRAC))
            weight.gradients(weight_entry, at::mm(grad.t(), in[IN]), in[WEIGHT], in[WEIGHT_FRAC], found[WEIGHT], found[WEIGHT_FRAC],
                             task_should_compute_output(WEIGHT_FRAC));
        if (task_should_compute_output(BIAS) || task_should_compute_output(BIAS_FRAC))
            bias.gradients(bias_entry, at::sum(grad, at::IntArrayRef{0}), in[BIAS], in[BIAS_FRAC], found[BIAS], found[BIAS_FRAC],
                           task_should_compute_output(BIAS_FRAC));
        return found;
    }
};

template <class Kind>
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 13
c10::intrusive_ptr<Kind> made() { return c10::make_intrusive<Kind>(); }
#else
std::shared_ptr<Kind> made() { return std::shared_ptr<Kind>(new Kind(), torch::autograd::deleteNode); }
#endif

// ---- Python's side ----------------------------------------------------------------------------------------------------

PyTypeObject *tensor_type, *parameter_type;
ptrdiff_t tensor_at;  // where in its Python object a tensor lies

const c10::DispatchKeySet ORDINARY({c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU, c10::DispatchKey::ADInplaceOrView, c10::DispatchKey::AutocastCPU});

// The tensor, if what lies in memory is what it means; None is no tensor. False for everything else.
bool take(PyObject* object, Tensor& to) {
    if (object == Py_None) return true;
    if (Py_TYPE(object) != tensor_type && Py_TYPE(object) != parameter_type) return false;
    to = *reinterpret_cast<Tensor*>(reinterpret_cast<char*>(object) + tensor_at);
    return to.defined() && (to.key_set() | ORDINARY) == ORDINARY && !to._fw_grad(0).defined();
}

bool transforms_are_active() {
    return c10::impl::tls_local_dispatch_key_set().included_.has(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
}

// What C++ threw, as Python's error; one of Python's own is set already, such as that which ends a forward that is computed again.
PyObject* raised(const std::exception& error) {
    const c10::Error* torchs = dynamic_cast<const c10::Error*>(&error);
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_RuntimeError, torchs ? torchs->what_without_backtrace() : error.what());
    return nullptr;
}

// cast(entry, frac_grad_scale, x, frac_bits[, int_bits, scale, shift, addend]): the result with its step, or None: then it has to go another way.
PyObject* cast(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    if (count != 4 && count != 8) {
        PyErr_SetString(PyExc_TypeError, "cast(entry, frac_grad_scale, x, frac_bits[, int_bits, scale, shift, addend])");
        return nullptr;
    }
    const Entry& entry = *static_cast<const Entry*>(PyLong_AsVoidPtr(arguments[0]));
    const double frac_grad_scale = PyFloat_AsDouble(arguments[1]);
    if (PyErr_Occurred()) return nullptr;
    Tensor in[INPUTS];
    const int inputs = int(count) - 2;
    for (int i = 0; i < inputs; i++)
        if (!take(arguments[i + 2], in[i])) Py_RETURN_NONE;
    const bool flat = entry.inner == 0;
    const bool last = flat ? is_channels_last(in[X]) : entry.is_channels_last;
    if (flat && (in[X].scalar_type() != at::kFloat || in[FRAC].scalar_type() != at::kFloat || in[FRAC].dim() || !in[X].numel() ||
                 !(last || in[X].is_contiguous())))
        Py_RETURN_NONE;
    if (transforms_are_active()) Py_RETURN_NONE;
    try {
        bool records = false;
        if (at::GradMode::is_enabled())
            for (int i = 0; i < inputs; i++) records = records || (in[i].defined() && in[i].requires_grad());
        Tensor out;
        int status;
        const int64_t size = in[X].numel();
        {
            at::NoGradGuard no_grad;
            Tensor x = laid_out(in[X], last), addend = in[ADDEND], frac = in[FRAC].contiguous(), words = in[WORDS];
            if (addend.defined()) addend = laid_out(addend, last);
            if (words.defined()) words = words.contiguous();
            Tensor scale = as_double(in[SCALE]), shift = as_double(in[SHIFT]);
            out = entry.is_wide ? at::empty_like(x, x.options().dtype(at::kDouble)) : at::empty_like(x);
            const int flags = flags_of(entry, size);
            PyThreadState* state = size < PARALLEL_FROM ? nullptr : PyEval_SaveThread();
            status = entry.forward(&entry.plan, room(out), data(x), data(addend), data(frac), data(words), doubles(scale), doubles(shift),
                                   flat ? 1 : entry.outer, flat ? 1 : entry.channels, flat ? size : entry.inner, flags);
            if (state) PyEval_RestoreThread(state);
        }
        if (status) Py_RETURN_NONE;  // whoever takes over says why
        if (records) {
            auto step = made<Step>();
            step->entry = entry;
            step->frac_grad_scale = frac_grad_scale;
            step->save(in, inputs);
            step->set_next_edges(inputs == 2 ? torch::autograd::collect_next_edges(in[X], in[FRAC])
                                             : torch::autograd::collect_next_edges(in[X], in[FRAC], in[WORDS], in[SCALE], in[SHIFT], in[ADDEND]));
            torch::autograd::create_gradient_edge(out, step);
        }
        return THPVariable_Wrap(out);
    } catch (const std::exception& error) {
        return raised(error);
    }
}

// Of one float32 binary point, rounded: whether it is `expected`, and lies within `reach` of its start.
bool stays(const Tensor& frac, const Tensor& start, double reach, long expected) {
    if (!frac.defined() || frac.scalar_type() != at::kFloat || frac.dim()) return false;
    if (start.defined() && (start.scalar_type() != at::kFloat || start.dim())) return false;
    const double bits = *static_cast<const float*>(frac.const_data_ptr());
    const bool near = !start.defined() || std::fabs(bits - double(*static_cast<const float*>(start.const_data_ptr()))) <= reach;
    return near && std::fabs(bits) <= 126 && long(std::nearbyint(bits)) == expected;
}

bool is_flat(const Tensor& t, int dim) { return t.defined() && t.scalar_type() == at::kFloat && t.dim() == dim && t.numel() && t.is_contiguous(); }

struct WithoutLock {  // of Python, as torch's own functions
    PyThreadState* const state = PyEval_SaveThread();
    ~WithoutLock() { PyEval_RestoreThread(state); }
};

// linear(x, limit, then of the weight, the bias and, if it is cast too, the result: entry, frac_grad_scale, reach, point, frac_bits, start, tensor):
// the layer's sums, or their cast, with their step, or None: a binary point has moved, the bias is beyond its limit, or another way has to be gone for
// another reason. Of a result the tensor is None.
PyObject* linear(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    const int EACH = 7, casts = int(count - 2) / EACH;
    if (count != 2 + casts * EACH || casts < 2 || casts > 3) {
        PyErr_SetString(PyExc_TypeError, "linear: 16 or 23 arguments");
        return nullptr;
    }
    Held held[3];
    double reach[3];
    long point[3];
    Tensor in[Linear::KEPT], start[3], none;
    if (!take(arguments[0], in[Linear::IN])) Py_RETURN_NONE;
    const double limit = PyFloat_AsDouble(arguments[1]);
    for (int i = 0; i < casts; i++) {
        PyObject* const* of = arguments + 2 + EACH * i;
        held[i].entry = static_cast<const Entry*>(PyLong_AsVoidPtr(of[0]));
        held[i].frac_grad_scale = PyFloat_AsDouble(of[1]);
        reach[i] = PyFloat_AsDouble(of[2]);
        point[i] = PyLong_AsLong(of[3]);
        Tensor& frac = in[i == 2 ? Linear::RESULT_FRAC : Linear::WEIGHT_FRAC + 2 * i];
        if (!take(of[4], frac) || !take(of[5], start[i]) || !take(of[6], i == 2 ? none : in[Linear::WEIGHT + 2 * i])) Py_RETURN_NONE;
    }
    if (PyErr_Occurred()) return nullptr;
    const Tensor &x = in[Linear::IN], &weight = in[Linear::WEIGHT], &bias = in[Linear::BIAS];
    if (!is_flat(x, 2) || !is_flat(weight, 2) || !is_flat(bias, 1) || x.size(0) < 2 || x.size(1) != weight.size(1) || bias.size(0) != weight.size(0) ||
        transforms_are_active() || !at::GradMode::is_enabled())
        Py_RETURN_NONE;
    for (int i = 0; i < casts; i++)
        if (!stays(in[i == 2 ? Linear::RESULT_FRAC : Linear::WEIGHT_FRAC + 2 * i], start[i], reach[i], point[i])) Py_RETURN_NONE;
    const float* number = static_cast<const float*>(bias.const_data_ptr());
    const double most = std::ldexp(limit, -int(point[1]));
    for (int64_t i = 0; i < bias.numel(); i++)
        if (!(double(std::fabs(number[i])) <= most)) Py_RETURN_NONE;
    try {
        Tensor out;
        {
            at::NoGradGuard no_grad;
            Tensor constant = held[1].cast(bias, in[Linear::BIAS_FRAC]);
            in[Linear::CAST] = held[0].cast(weight, in[Linear::WEIGHT_FRAC]);
            if (!constant.defined() || !in[Linear::CAST].defined()) Py_RETURN_NONE;  // whoever takes over says why
            const WithoutLock others_may_run;
            out = at::linear(x, in[Linear::CAST], constant);
            if (casts == 3) {
                in[Linear::SUMS] = out;
                out = held[2].cast(out, in[Linear::RESULT_FRAC]);
            }
        }
        if (!out.defined()) Py_RETURN_NONE;
        bool records = false;
        for (int i = 0; i < Linear::EDGES; i++) records = records || (in[i].defined() && in[i].requires_grad());
        if (records) {
            auto step = made<Linear>();
            step->weight = held[0], step->bias = held[1];
            step->weight_entry = *held[0].entry, step->bias_entry = *held[1].entry;
            if (casts == 3) step->result = held[2], step->result_entry = *held[2].entry;
            step->save(in, Linear::KEPT);
            step->set_next_edges(torch::autograd::collect_next_edges(x, weight, in[Linear::WEIGHT_FRAC], bias, in[Linear::BIAS_FRAC],
                                                                     in[Linear::RESULT_FRAC]));
            torch::autograd::create_gradient_edge(out, step);
        }
        return THPVariable_Wrap(out);
    } catch (const std::exception& error) {
        return raised(error);
    }
}

// holds(numbers, points, limit): whether no |number| * 2**point of a float32 vector lies beyond the limit; None where torch has to say it.
PyObject* holds(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    Tensor numbers, points;
    if (count != 3 || !take(arguments[0], numbers) || !take(arguments[1], points) || !numbers.defined() || !points.defined()) Py_RETURN_NONE;
    const double limit = PyFloat_AsDouble(arguments[2]);
    if (PyErr_Occurred()) return nullptr;
    const int64_t size = numbers.numel(), many = points.numel();
    if (numbers.scalar_type() != at::kFloat || points.scalar_type() != at::kFloat || !numbers.is_contiguous() || !points.is_contiguous() ||
        (many != 1 && many != size) || !size || transforms_are_active())
        Py_RETURN_NONE;
    const float *number = static_cast<const float*>(numbers.const_data_ptr()), *point = static_cast<const float*>(points.const_data_ptr());
    for (int64_t i = 0; i < size; i++) {
        const float bits = std::nearbyint(point[many == 1 ? 0 : i]);
        if (!(std::fabs(bits) <= 126.0f)) Py_RETURN_NONE;
        if (!(double(std::fabs(number[i])) * std::ldexp(1.0, int(bits)) <= limit)) Py_RETURN_FALSE;
    }
    Py_RETURN_TRUE;
}

// point(frac_bits, start, reach): the binary point of one float32 number, rounded, or None: it lies further from its start than that, or torch has to
// read it.
PyObject* point(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    Tensor frac, start;
    if (count != 3 || !take(arguments[0], frac) || !take(arguments[1], start) || !frac.defined()) Py_RETURN_NONE;
    const double reach = PyFloat_AsDouble(arguments[2]);
    if (PyErr_Occurred()) return nullptr;
    if (frac.scalar_type() != at::kFloat || frac.dim() || transforms_are_active()) Py_RETURN_NONE;
    if (start.defined() && (start.scalar_type() != at::kFloat || start.dim())) Py_RETURN_NONE;
    const double bits = *static_cast<const float*>(frac.const_data_ptr());
    const bool near = !start.defined() || std::fabs(bits - double(*static_cast<const float*>(start.const_data_ptr()))) <= reach;
    if (!near || !(std::fabs(bits) < 1e6)) Py_RETURN_NONE;
    return PyLong_FromLong(long(std::nearbyint(bits)));
}

PyMethodDef methods[] = {
    {"point", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(point)), METH_FASTCALL, nullptr},
    {"cast", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(cast)), METH_FASTCALL, nullptr},
    {"linear", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(linear)), METH_FASTCALL, nullptr},
    {"holds", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(holds)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "qfx_recorded", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

// The module, or None if tensors do not lie in their Python objects as expected. `sample`: a tensor, and `inside` what its _cdata says.
extern "C" __attribute__((visibility("default"))) PyObject* qfx_recorded(PyObject* sample, PyObject* parameter, void* inside) {
    for (ptrdiff_t at = sizeof(PyObject); at <= ptrdiff_t(sizeof(PyObject) + 2 * sizeof(void*)); at += sizeof(void*)) {
        if (*reinterpret_cast<void**>(reinterpret_cast<char*>(sample) + at) != inside) continue;
        tensor_type = Py_TYPE(sample), parameter_type = Py_TYPE(parameter), tensor_at = at;
        return PyModule_Create(&module);
    }
    Py_RETURN_NONE;
}
