// The step of autograd of one Cast, in C++: recorded.py builds it against the torch that runs, and step.py says what it stands in for.
//
// The arithmetic is that of native.cpp, whose entries come as addresses; here is only what autograd wants: what is saved, and where gradients go.
#include <Python.h>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
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
    int64_t outer, channels, inner;  // inner 0: a plain Cast of a contiguous float32 tensor, whatever its shape
    int32_t flags, is_channels_last, is_wide, reserved;
    Plan plan;
};

enum { X, FRAC, WORDS, SCALE, SHIFT, ADDEND, INPUTS };
const int64_t PARALLEL_FROM = 65536;
const int THREADS_SHIFT = 8;

int flags_of(const Entry& entry, int64_t count) {
    return entry.flags | (count < PARALLEL_FROM ? 1 : at::get_num_threads()) << THREADS_SHIFT;
}

Tensor laid_out(const Tensor& t, const Entry& entry) {
    return t.contiguous(entry.is_channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
}

const void* data(const Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; }
void* room(const Tensor& t) { return t.defined() ? t.mutable_data_ptr() : nullptr; }
Tensor as_double(const Tensor& t) { return t.defined() ? t.to(at::kDouble).contiguous() : t; }
double* doubles(const Tensor& t) { return t.defined() ? static_cast<double*>(t.mutable_data_ptr()) : nullptr; }

struct Step : public Node {
    Entry entry;
    double frac_grad_scale;
    int inputs;
    SavedVariable saved[INPUTS];

    std::string name() const override { return "StepBackward"; }

    void release_variables() override {
        std::lock_guard<std::mutex> lock(mutex_);
        for (int i = 0; i < inputs; i++) saved[i].reset_data();
    }

    variable_list apply(variable_list&& grads) override {
        std::lock_guard<std::mutex> lock(mutex_);
        Tensor in[INPUTS];
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
            found = gradients(grad, in);
        }
        if (!again) return found;
        variable_list delayed;  // a second derivative is refused once somebody asks for it, as by torch's once_differentiable
        for (Tensor& t : found) delayed.push_back(t.defined() ? t.detach().set_requires_grad(true) : t);
        torch::autograd::DelayedError refusal("trying to differentiate twice a function that was marked with @once_differentiable", int64_t(delayed.size()));
        return refusal.apply(std::move(delayed));
    }

    variable_list gradients(Tensor grad, Tensor* in) {
        TORCH_CHECK(grad.has_storage() && grad.device().is_cpu(), "the gradient of a fixed-point cast is taken of plain tensors, one after the other");
        grad = laid_out(grad.resolve_neg(), entry);
        Tensor x = laid_out(in[X], entry), addend = in[ADDEND], frac = in[FRAC].contiguous(), words = in[WORDS];
        if (addend.defined()) addend = laid_out(addend, entry);
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
        const bool flat = entry.inner == 0;
        const int64_t count = x.numel();
        int status = entry.backward(&entry.plan, room(by_x), room(by_addend), data(grad), data(x), data(addend), data(frac), data(words), doubles(scale),
                                    doubles(shift), flat ? 1 : entry.outer, flat ? 1 : entry.channels, flat ? count : entry.inner,
                                    flags_of(entry, count), frac_grad_scale, room(by_frac), room(by_words), doubles(by_scale), doubles(by_shift));
        TORCH_CHECK(status == 0, "a binary point left the range of its type between forward and backward, or there is no memory");
        if (by_scale.defined()) by_scale = by_scale.to(in[SCALE].scalar_type());
        if (by_shift.defined()) by_shift = by_shift.to(in[SHIFT].scalar_type());
        variable_list found = {by_x, by_frac, by_words, by_scale, by_shift, by_addend};
        found.resize(inputs);
        return found;
    }
};

#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 13
typedef c10::intrusive_ptr<Step> Owned;
Owned made() { return c10::make_intrusive<Step>(); }
#else
typedef std::shared_ptr<Step> Owned;
Owned made() { return Owned(new Step(), torch::autograd::deleteNode); }
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
    if (flat && (in[X].scalar_type() != at::kFloat || in[FRAC].scalar_type() != at::kFloat || in[FRAC].dim() || !in[X].numel() || !in[X].is_contiguous()))
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
            Tensor x = laid_out(in[X], entry), addend = in[ADDEND], frac = in[FRAC].contiguous(), words = in[WORDS];
            if (addend.defined()) addend = laid_out(addend, entry);
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
            Owned step = made();
            step->entry = entry;
            step->frac_grad_scale = frac_grad_scale;
            step->inputs = inputs;
            step->set_next_edges(inputs == 2 ? torch::autograd::collect_next_edges(in[X], in[FRAC])
                                             : torch::autograd::collect_next_edges(in[X], in[FRAC], in[WORDS], in[SCALE], in[SHIFT], in[ADDEND]));
            for (int i = 0; i < inputs; i++) step->saved[i] = SavedVariable(in[i], false);
            torch::autograd::create_gradient_edge(out, step);
        }
        return THPVariable_Wrap(out);
    } catch (const c10::Error& error) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_RuntimeError, error.what_without_backtrace());
    } catch (const std::exception& error) {  // one of Python's own is set already, such as that which ends a forward that is computed again
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
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
