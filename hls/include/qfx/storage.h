// What FIFOs and memories are built of. The code generator decides (qfx/hardware/design/storage.py); without a binding the tool does.
#ifndef QFX_STORAGE_H
#define QFX_STORAGE_H

#include "qfx/types.h"

// Binds the variable `name` to a KIND of memory (FIFO; ROM_1P, ROM_NP: constants with one or any number of reads a cycle; RAM_S2P: a write and a read
// port) made of IMPL (SRL, LUTRAM, BRAM, URAM): BIND_STORAGE of UG1399; for Vivado HLS RESOURCE, whose cores are called KIND_IMPL (UG902).
#if defined(__SYNTHESIS__) && defined(__VITIS_HLS__)
#define QFX_BIND(name, KIND, IMPL) QFX_PRAGMA(HLS BIND_STORAGE variable = name type = KIND impl = IMPL)
#elif defined(__SYNTHESIS__)
#define QFX_BIND(name, KIND, IMPL) QFX_PRAGMA(HLS RESOURCE variable = name core = KIND##_##IMPL)
#else
#define QFX_BIND(name, KIND, IMPL)
#endif

namespace qfx {

// Where a template keeps its buffer: a pragma cannot depend on a template's parameters, but which of these functions is called can. They are inlined,
// so that the binding is that of the buffer itself.
struct by_tool {
  template <class Memory>
  static inline void bind(Memory) {
#pragma HLS INLINE
  }
};

struct in_lutram {
  template <class Memory>
  static inline void bind(Memory memory) {
#pragma HLS INLINE
    QFX_BIND(memory, RAM_S2P, LUTRAM)
    static_cast<void>(memory);
  }
};

struct in_bram {
  template <class Memory>
  static inline void bind(Memory memory) {
#pragma HLS INLINE
    QFX_BIND(memory, RAM_S2P, BRAM)
    static_cast<void>(memory);
  }
};

struct in_uram {
  template <class Memory>
  static inline void bind(Memory memory) {
#pragma HLS INLINE
    QFX_BIND(memory, RAM_S2P, URAM)
    static_cast<void>(memory);
  }
};

}  // namespace qfx

#endif
