// The row kernels of one instruction set, and the choice among those that were compiled and that this CPU can run.
#pragma once

#include "../core/rows.h"
#include "head.h"

namespace fastpref {

struct RowKernels {
  // `more`, or null: other rows of the same dtype, columns, transform and statistics, in the same sweep.
  void (*row_stats)(const RowStatsArgs&, const RowStatsArgs* more);
  void (*row_grad)(const RowGradArgs&);
  void (*row_kl_stats)(const RowKlStatsArgs&);
  void (*row_kl_grad)(const RowKlGradArgs&);
};

extern const RowKernels kBaselineRows;
#ifdef FASTPREF_X86
extern const RowKernels kAvx2Rows;
extern const RowKernels kAvx512Rows;
#endif
#ifdef FASTPREF_AMX
extern const HeadKernels kAmxHead;
#endif

struct Isa {
  const char* name;
  const RowKernels* rows;
  const HeadKernels* head;  // null where the row kernels and the caller's matrix products do better
  bool supported;           // by this CPU and its operating system
};

constexpr int kMaxIsas = 4;

// Every compiled instruction set, from the plainest to the widest. Writes at most kMaxIsas, returns how many.
int list_isas(Isa* out);

}  // namespace fastpref
