# A model of Vivado HLS and Vitis HLS in batch mode (UG902 and UG1399, Tcl command reference): the state that the commands need and leave.
#   tclsh hls.tcl -f script.tcl          tclsh hls.tcl --mode hls --tcl script.tcl
source [file join [file dirname [info script]] commands.tcl]

command open_project {-reset} {} {} 1 1
command set_top {} {} {} 1 1
command add_files {-tb} {-cflags -csimflags -blackbox} {} 1 99
command open_solution {-reset} {-flow_target} {} 1 1
command set_part {} {-tool} {} 1 1
command create_clock {} {-period -name} {-period} 0 1
command set_clock_uncertainty {} {} {} 1 2
command config_interface {-m_axi_addr64} {-m_axi_latency -m_axi_alignment_byte_size} {} 0 0
command csim_design {-O -clean -setup -profile} {-argv -compiler -ldflags -mflags} {} 0 0
command csynth_design {-dump_cfg -dump_post_cfg -synthesis_check} {} {} 0 0
command cosim_design {-O -setup -coverage -disable_deadlock_detection -wave_debug -enable_dataflow_profiling -enable_fifo_sizing -random_stall} \
    {-argv -compiled_library_dir -ldflags -mflags -rtl -tool -trace_level} {} 0 0
command export_design {-evaluate_vhdl} \
    {-format -version -vendor -library -ipname -description -display_name -taxonomy -rtl -flow -output -xo -acc} {-format} 0 0

set state [dict create]

proc has {args} {
    foreach key $args {
        rule {[dict exists $::state $key]} {[info level [expr {[info level] - 1}]]: there is no $key yet}
    }
}

proc do_open_project {call name} {
    dict set ::state project $name
    file mkdir $name
}
proc do_set_top {call name} {
    has project
    dict set ::state top $name
}
proc do_add_files {call args} {
    has project
    foreach path $args {
        rule {[file isfile $path]} {add_files: $path is not a file}
    }
    if {![dict exists $call -tb]} {
        dict set ::state sources $args
    }
    foreach {all quoted plain} [regexp -all -inline -- {-I(?:"([^"]*)"|(\S+))} [option $call -cflags ""]] {
        rule {[file isdirectory $quoted$plain]} {add_files: $quoted$plain is not a folder}
    }
}
proc do_open_solution {call name} {
    has project
    dict set ::state solution $name
}
proc do_set_part {call part} {
    has solution
    dict set ::state part $part
}
proc do_create_clock {call args} {
    has solution
    rule {[string is double -strict [dict get $call -period]] && [dict get $call -period] > 0} {create_clock: period [dict get $call -period]}
    dict set ::state clock [dict get $call -period]
}
proc do_set_clock_uncertainty {call uncertainty {clock default}} {
    has clock
    rule {[regexp {^(\d+(\.\d+)?)%$} $uncertainty all percent] && $percent < 100} {set_clock_uncertainty: $uncertainty}
    rule {$clock eq "default"} {set_clock_uncertainty: no clock $clock}
}
proc do_config_interface {call} {
    has solution
}
proc do_csim_design {call} {
    has top sources solution part
}
proc do_csynth_design {call} {
    has top sources solution part clock
    dict set ::state rtl 1
}
proc do_cosim_design {call} {
    has rtl
}
proc do_export_design {call} {
    has rtl
    rule {[dict get $call -format] in {ip_catalog syn_dcp sysgen xo ip}} {export_design: no format [dict get $call -format]}
    if {[dict exists $call -version]} {
        rule {[regexp {^\d+\.\d+(\.\d+)?$} [dict get $call -version]]} {export_design: version [dict get $call -version]}
    }
    set folder [dict get $::state project]/[dict get $::state solution]/impl/ip
    file mkdir $folder
    set component [open $folder/component.xml w]
    puts $component "<spirit:name>[dict get $::state top]</spirit:name>"
    close $component
}

if {[lindex $argv 0] eq "-f" && [llength $argv] == 2} {
    run_script [lindex $argv 1]
} elseif {[lrange $argv 0 2] eq "--mode hls --tcl" && [llength $argv] == 4} {
    run_script [lindex $argv 3]
}
broken "the tool is not called like that: $argv"
