"""Names that a top function cannot have: something else in the project, in the headers that it is compiled with or in the tools behind it has them.

The top function is the one global name that a user chooses. Its name becomes a C++ function, files in ``src``, which HLS searches for headers, a
module in Verilog and an entity in VHDL, and the folders of the vendor's tools; each of these worlds has words of its own. Names of layers carry a
suffix and need none of this. What only C++ sees is compared as it is written, the rest without regard to case, as VHDL and Windows do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CPP11_KEYWORDS = _words("""
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t class compl const const_cast constexpr continue decltype
default delete do double dynamic_cast else enum explicit export extern false float for friend goto if inline int long mutable namespace new noexcept
not not_eq nullptr operator or or_eq private protected public register reinterpret_cast return short signed sizeof static static_assert static_cast
struct switch template this thread_local throw true try typedef typeid typename union unsigned using virtual void volatile wchar_t while xor xor_eq
""")

_CPP_KEYWORDS = CPP11_KEYWORDS | _words("""
char8_t concept consteval constinit co_await co_return co_yield requires contract_assert reflexpr synchronized atomic_cancel atomic_commit
atomic_noexcept restrict typeof typeof_unqual final override import module
""")

_VERILOG = _words("""
always and assign automatic begin buf bufif0 bufif1 case casex casez cell cmos config deassign default defparam design disable edge else end endcase
endconfig endfunction endgenerate endmodule endprimitive endspecify endtable endtask event for force forever fork function generate genvar highz0
highz1 if ifnone incdir include initial inout input instance integer join large liblist library localparam macromodule medium module nand negedge nmos
nor noshowcancelled not notif0 notif1 or output parameter pmos posedge primitive pull0 pull1 pulldown pullup pulsestyle_ondetect pulsestyle_onevent
rcmos real realtime reg release repeat rnmos rpmos rtran rtranif0 rtranif1 scalared showcancelled signed small specify specparam strong0 strong1
supply0 supply1 table task time tran tranif0 tranif1 tri tri0 tri1 triand trior trireg unsigned use uwire vectored wait wand weak0 weak1 while wire
wor xnor xor accept_on alias always_comb always_ff always_latch assert assume before bind bins binsof bit break byte chandle checker class clocking
const constraint context continue cover covergroup coverpoint cross dist do endchecker endclass endclocking endgroup endinterface endpackage
endprogram endproperty endsequence enum eventually expect export extends extern final first_match foreach forkjoin global iff ignore_bins illegal_bins
implements implies import inside int interconnect interface intersect join_any join_none let local logic longint matches modport nettype new nexttime
null package packed priority program property protected pure rand randc randcase randsequence ref reject_on restrict return s_always s_eventually
s_nexttime s_until s_until_with sequence shortint shortreal soft solve static string strong struct super sync_accept_on sync_reject_on tagged this
throughout timeprecision timeunit type typedef union unique unique0 until until_with untyped var virtual void wait_order weak wildcard with within
""")

_VHDL = _words("""
abs access after alias all and architecture array assert assume assume_guarantee attribute begin block body buffer bus case component configuration
constant context cover default disconnect downto else elsif end entity exit fairness file for force function generate generic group guarded if impure
in inertial inout is label library linkage literal loop map mod nand new next nor not null of on open or others out package parameter port postponed
procedure process property protected pure range record register reject release rem report restrict restrict_guarantee return rol ror select sequence
severity shared signal sla sll sra srl strong subtype then to transport type unaffected units until use variable vmode vprop vunit wait when while
with xnor xor work
""")

_C_FUNCTIONS = _words("""
abort abs acos acosf acosh acoshf acoshl acosl aligned_alloc asctime asin asinf asinh asinhf asinhl asinl assert at_quick_exit atan atan2 atan2f
atan2l atanf atanh atanhf atanhl atanl atexit atof atoi atol atoll bsearch btowc cabs cacos cacosh calloc carg casin casinh catan catanh cbrt cbrtf
cbrtl ccos ccosh ceil ceilf ceill cexp cimag clearerr clock clog conj copysign copysignf copysignl cos cosf cosh coshf coshl cosl cpow cproj creal
csin csinh csqrt ctan ctanh ctime difftime div erf erfc erfcf erfcl erff erfl errno exit exp exp2 exp2f exp2l expf expl expm1 expm1f expm1l fabs fabsf
fabsl fclose fdim fdimf fdiml feclearexcept fegetenv fegetexceptflag fegetround feholdexcept feof feraiseexcept ferror fesetenv fesetexceptflag
fesetround fetestexcept feupdateenv fflush fgetc fgetpos fgets fgetwc fgetws floor floorf floorl fma fmaf fmal fmax fmaxf fmaxl fmin fminf fminl fmod
fmodf fmodl fopen fpclassify fprintf fputc fputs fputwc fputws fread free freopen frexp frexpf frexpl fscanf fseek fsetpos ftell fwide fwprintf fwrite
fwscanf getc getchar getenv gets getwc getwchar gmtime hypot hypotf hypotl ilogb ilogbf ilogbl imaxabs imaxdiv isalnum isalpha isblank iscntrl isdigit
isfinite isgraph isgreater isgreaterequal isinf isless islessequal islessgreater islower isnan isnormal isprint ispunct isspace issubnormal
isunordered isupper iswalnum iswalpha iswblank iswcntrl iswctype iswdigit iswgraph iswlower iswprint iswpunct iswspace iswupper iswxdigit isxdigit
labs ldexp ldexpf ldexpl ldiv lgamma lgammaf lgammal llabs lldiv llrint llrintf llrintl llround llroundf llroundl localeconv localtime log log10
log10f log10l log1p log1pf log1pl log2 log2f log2l logb logbf logbl logf logl longjmp lrint lrintf lrintl lround lroundf lroundl malloc mblen mbrlen
mbrtoc16 mbrtoc32 mbrtowc mbsinit mbsrtowcs mbstowcs mbtowc memchr memcmp memcpy memmove memset mktime modf modff modfl nan nanf nanl nearbyint
nearbyintf nearbyintl nextafter nextafterf nextafterl nexttoward nexttowardf nexttowardl offsetof perror pow powf powl printf putc putchar puts putwc
putwchar qsort quick_exit raise rand realloc remainder remainderf remainderl remove remquo remquof remquol rename rewind rint rintf rintl round roundf
roundl scalbln scalblnf scalblnl scalbn scalbnf scalbnl scanf setbuf setjmp setlocale setvbuf signal signbit sin sinf sinh sinhf sinhl sinl snprintf
sprintf sqrt sqrtf sqrtl srand sscanf stderr stdin stdout strcat strchr strcmp strcoll strcpy strcspn strerror strftime strlen strncat strncmp strncpy
strpbrk strrchr strspn strstr strtod strtof strtoimax strtok strtol strtold strtoll strtoul strtoull strtoumax strxfrm swprintf swscanf system tan
tanf tanh tanhf tanhl tanl tgamma tgammaf tgammal time timespec_get tmpfile tmpnam tolower toupper towctrans towlower towupper trunc truncf truncl
ungetc ungetwc va_arg va_copy va_end va_start vfprintf vfscanf vfwprintf vfwscanf vprintf vscanf vsnprintf vsprintf vsscanf vswprintf vswscanf
vwprintf vwscanf wcrtomb wcscat wcschr wcscmp wcscoll wcscpy wcscspn wcsftime wcslen wcsncat wcsncmp wcsncpy wcspbrk wcsrchr wcsrtombs wcsspn wcsstr
wcstod wcstof wcstok wcstol wcstold wcstoll wcstombs wcstoul wcstoull wcsxfrm wctob wctomb wctrans wctype wmemchr wmemcmp wmemcpy wmemmove wmemset
wprintf wscanf
""")

_C_NAMES = _words("""
FILE alloca assert_perror be16toh be32toh be64toh caddr_t clock_t clockid_t comparison_fn_t cookie_close_function_t cookie_io_functions_t
cookie_read_function_t cookie_seek_function_t cookie_write_function_t cpu_set_t blkcnt64_t blkcnt_t blksize_t daddr_t daylight dev_t div_t double_t
environ error_t fd_mask fd_set femode_t fenv_t fexcept_t float_t fpos64_t fpos_t fsblkcnt64_t fsblkcnt_t fsfilcnt64_t fsfilcnt_t fsid_t getdate_err
gid_t htobe16 htobe32 htobe64 htole16 htole32 htole64 id_t ino64_t ino_t int16_t int32_t int64_t int8_t int_fast16_t int_fast32_t int_fast64_t
int_fast8_t int_least16_t int_least32_t int_least64_t int_least8_t intmax_t intptr_t key_t ldiv_t le16toh le32toh le64toh lldiv_t locale_t loff_t
math_errhandling max_align_t mbstate_t mode_t nlink_t nullptr_t off64_t off_t opterr optarg optind optopt pid_t program_invocation_name
program_invocation_short_name pthread_attr_t pthread_barrier_t pthread_barrierattr_t pthread_cleanup_pop pthread_cleanup_pop_restore_np
pthread_cleanup_push pthread_cleanup_push_defer_np pthread_cond_t pthread_condattr_t pthread_key_t pthread_mutex_t pthread_mutexattr_t pthread_once_t
pthread_rwlock_t pthread_rwlockattr_t pthread_spinlock_t pthread_t ptrdiff_t quad_t register_t rsize_t sched_priority sig_atomic_t signgam sigset_t
size_t ssize_t strdupa strndupa suseconds_t sys_errlist sys_nerr time_t timer_t timezone tzname u_char u_int u_int16_t u_int32_t u_int64_t u_int8_t
u_long u_quad_t u_short uid_t uint uint16_t uint32_t uint64_t uint8_t uint_fast16_t uint_fast32_t uint_fast64_t uint_fast8_t uint_least16_t
uint_least32_t uint_least64_t uint_least8_t uintmax_t uintptr_t ulong useconds_t ushort va_list wctrans_t wctype_t wint_t
""")

_MACROS = _words("""
BIAS BUFSIZ CSIGNAL DOMAIN FALSE HUGE I INFINITY INLINE MAXFLOAT NAN NDEBUG NFDBITS NULL OVERFLOW PLOSS SING SNAN SNANF SNANF128 SNANF32 SNANF32X
SNANF64 SNANF64X SNANL TLOSS TRUE UNDERFLOW WCONTINUED WEOF WEXITED WEXITSTATUS WIFCONTINUED WIFEXITED WIFSIGNALED WIFSTOPPED WNOHANG WNOWAIT WSTOPPED
WSTOPSIG WTERMSIG WUNTRACED E2BIG EACCES EADDRINUSE EADDRNOTAVAIL EADV EAFNOSUPPORT EAGAIN EALREADY EBADE EBADF EBADFD EBADMSG EBADR EBADRQC EBADSLT
EBFONT EBUSY ECANCELED ECHILD ECHRNG ECOMM ECONNABORTED ECONNREFUSED ECONNRESET EDEADLK EDEADLOCK EDESTADDRREQ EDOM EDOTDOT EDQUOT EEXIST EFAULT EFBIG
EHOSTDOWN EHOSTUNREACH EHWPOISON EIDRM EILSEQ EINPROGRESS EINTR EINVAL EIO EISCONN EISDIR EISNAM EKEYEXPIRED EKEYREJECTED EKEYREVOKED EL2HLT EL2NSYNC
EL3HLT EL3RST ELIBACC ELIBBAD ELIBEXEC ELIBMAX ELIBSCN ELNRNG ELOOP EMEDIUMTYPE EMFILE EMLINK EMSGSIZE EMULTIHOP ENAMETOOLONG ENAVAIL ENETDOWN
ENETRESET ENETUNREACH ENFILE ENOANO ENOBUFS ENOCSI ENODATA ENODEV ENOENT ENOEXEC ENOKEY ENOLCK ENOLINK ENOMEDIUM ENOMEM ENOMSG ENONET ENOPKG
ENOPROTOOPT ENOSPC ENOSR ENOSTR ENOSYS ENOTBLK ENOTCONN ENOTDIR ENOTEMPTY ENOTNAM ENOTRECOVERABLE ENOTSOCK ENOTSUP ENOTTY ENOTUNIQ ENXIO EOF
EOPNOTSUPP EOVERFLOW EOWNERDEAD EPERM EPFNOSUPPORT EPIPE EPROTO EPROTONOSUPPORT EPROTOTYPE ERANGE EREMCHG EREMOTE EREMOTEIO ERESTART ERFKILL EROFS
ESHUTDOWN ESOCKTNOSUPPORT ESPIPE ESRCH ESRMNT ESTALE ESTRPIPE ETIME ETIMEDOUT ETOOMANYREFS ETXTBSY EUCLEAN EUNATCH EUSERS EWOULDBLOCK EXDEV EXFULL
L_ctermid L_cuserid L_tmpnam P_tmpdir linux unix i386 vax mips sparc
""")

_HEADERS = _words("""
aio alloca argp argz arpa assert byteswap complex cpio crypt ctype dirent dlfcn elf endian envz err errno error execinfo fcntl features fenv float
fmtmsg fnmatch fstab ftw getopt glob gmp gmpxx grp half iconv ifaddrs immintrin inttypes iso646 langinfo libgen libintl limits link locale malloc math
memory mntent monetary mpfr mqueue netdb nl_types obstack omp paths poll printf pthread pwd regex resolv sched search semaphore setjmp shadow signal
spawn stdalign stdarg stdatomic stdbool stdckdint stdbit stddef stdint stdio stdio_ext stdlib stdnoreturn string strings stropts syscall sysexits
syslog systemc tar termios tgmath threads time uchar ucontext unistd utime utmp utmpx values wait wchar wctype wordexp x86intrin xmmintrin emmintrin
""")

_OURS = _words("""
main std hls qfx abi ssdm_int_sim retval valtype half af_bit_ref af_range_ref llvm_support_mathextras in out weights load layers frame constants
load_constants load_golden input_port output_port slot qfx_abreast qfx_axi qfx_beside qfx_bounded qfx_cast qfx_dma qfx_elementwise qfx_emulate
qfx_emulate_frames qfx_emulate_hls_stream qfx_fast qfx_frames qfx_harness qfx_hls_stream qfx_load qfx_matmul qfx_matvec qfx_memory
qfx_memory_spill qfx_memory_tiles qfx_multiply qfx_native qfx_sequential_engine qfx_sequential_epilogue qfx_sequential_step
qfx_pixels qfx_pointwise qfx_pool qfx_report qfx_rom qfx_row_width qfx_run qfx_select qfx_sequence qfx_shape qfx_sim qfx_sim_ap_axi_sdata qfx_storage
qfx_tap qfx_tb qfx_trace qfx_types
qfx_unrolled qfx_weights qfx_whole_window qfx_width qfx_window
x_hls_math
x_hls_stream_sim x_hls_utils x_hls_defines harness dma
""")

_TOOLS = _words("""
system system_wrapper con prn aux nul com1 com2 com3 com4 com5 com6 com7 com8 com9 lpt1 lpt2 lpt3 lpt4 lpt5 lpt6 lpt7 lpt8 lpt9
""")

_AS_WRITTEN: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "a keyword of C++": _CPP_KEYWORDS,
        "a name of the C library": _C_FUNCTIONS | _C_NAMES,
        "a macro of the C library": _MACROS,
    }
)
_ANY_CASE: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "a word of the generated sources": _OURS,
        "a keyword of VHDL": _VHDL,
        "a keyword of Verilog": _VERILOG,
        "the name of a header": _HEADERS,
        "a name of the tools": _TOOLS,
    }
)
_PREFIXES = ("ap_", "hls_", "ssdm_", "apatb_", "aesl_", "pthread_")
_CAPITALS = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+|M_[A-Za-z0-9_]+|(PRI|SCN)[diouxX][A-Z0-9]*")


def meaning(name: str) -> str:
    """What else ``name`` is, in words that follow "it is"; empty if it can name a top function."""
    lower = name.lower()
    for what, words in _AS_WRITTEN.items():
        if name in words:
            return what
    for what, words in _ANY_CASE.items():
        if lower in words:
            return what
    if lower.startswith(_PREFIXES):
        return "a name of the vendor's headers"
    return "written like a macro" if _CAPITALS.fullmatch(name) else ""
