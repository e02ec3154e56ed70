# A model of Vivado in batch mode (UG835; IP as in PG021, PG085, PG082, PG201, PG164, PG247): projects, block designs, runs.
#   tclsh vivado.tcl -mode batch -source script.tcl
# Environment: MODEL_IN_BITS, MODEL_OUT_BITS and (if there is such a port) MODEL_WEIGHTS_BITS describe the accelerator, or instead of the first two
# MODEL_STREAMS (name, mode and bits of each stream), or MODEL_NO_STREAMS if it has none; MODEL_MASTERS are its AXI masters; MODEL_BOARDS
# lists the installed board parts; MODEL_MHZ is the clock that the processing system gives (default: what is asked); MODEL_SETUP and MODEL_HOLD are the slacks (empty: no path); MODEL_FAIL names a run that fails;
# MODEL_HANDOFF is where the handoff goes (gen, srcs).
source [file join [file dirname [info script]] commands.tcl]
source [file join [file dirname [info script]] ip.tcl]

command create_project {-force -in_memory -ip} {-part} {} 0 2
command current_project {} {} {} 0 1
command current_fileset {-constrset -simset -srcset -blockset} {} {} 0 1
command set_param {} {} {} 2 2
command set_property {} {-dict -name -value -objects} {} 1 3
command get_property {-min -max} {} {} 2 2
command get_board_parts {-regexp -nocase -latest_file_version -latest_hw_revision} {-filter} {} 0 99
command update_ip_catalog {-rebuild} {-add_ip -delete_ip -repo_path -scan_changes} {} 0 0
command get_ipdefs {-all -regexp -nocase} {-filter} {} 0 99
command create_bd_design {} {-dir -cell -bdsource} {} 1 1
command create_bd_cell {} {-vlnv -type -reference -revision} {} 1 1
command apply_bd_automation {} {-rule -config -dict -opts} {} 1 99
command get_bd_cells {-regexp -hierarchical -nocase} {-filter -of_objects} {} 0 99
command get_bd_pins {-regexp -hierarchical -nocase} {-filter -of_objects} {} 0 99
command get_bd_intf_pins {-regexp -hierarchical -nocase} {-filter -of_objects} {} 0 99
command connect_bd_net {} {-net -boundary_type} {} 2 99
command connect_bd_intf_net {} {-intf_net -boundary_type} {} 2 3
command assign_bd_address {-import_from_file -external} {-target_address_space -offset -range} {} 0 99
command validate_bd_design {-force -include_pfm} {-design -steps} {} 0 0
command save_bd_design {} {} {} 0 1
command get_files {-regexp -nocase -norecurse -all} {-of_objects -filter -compile_order -used_in} {} 0 99
command make_wrapper {-top -testbench -inst_template -import -force} {-files -fileset} {} 0 99
command add_files {-norecurse -scan_for_includes -quiet} {-fileset -of_objects -copy_to} {} 0 99
command update_compile_order {-force_gui} {-fileset} {} 0 0
command launch_runs {-scripts_only -next_step -force} {-jobs -to_step -dir -host -lsf} {} 1 99
command wait_on_run {} {-timeout} {} 1 1
command get_runs {-regexp -nocase} {-filter} {} 0 99
command open_run {} {-name -pr_config} {} 1 1
command report_utilization {-hierarchical -append -return_string} {-file -name -format -hierarchical_depth -cells} {} 0 0
command report_timing_summary {-append -return_string -report_unconstrained -warn_on_violation} {-file -name -delay_type -max_paths -nworst} {} 0 0
command get_timing_paths {-unique_pins -setup -hold} {-from -to -delay_type -max_paths -nworst -filter} {} 0 0
command write_hw_platform {-fixed -force -include_bit -include_sim_content -minimal -hw -hw_emu} {} {} 0 1

set project {}
set boards [env_of MODEL_BOARDS ""]
set board ""
set repositories {}
set design ""
set validated 0
set assigned 0
set cells [dict create];  # name -> vlnv
set config [dict create]; # name -> parameter -> value
set nets {};              # lists of pins
set intf_nets {};         # pairs of interface pins
set wrapper ""
set top ""
set runs [dict create synth_1 {"Not started" 0%} impl_1 {"Not started" 0%}]
set opened ""

# --- projects --------------------------------------------------------------------------------------------------------------------------------------------

proc needs_project {} {
    rule {$::project ne ""} {[info level -1]: no project is open}
}
proc needs_design {} {
    needs_project
    rule {$::design ne ""} {[info level -1]: no block design is open}
}

proc do_create_project {call name folder} {
    rule {[dict exists $call -part]} {create_project without a part}
    rule {[dict exists $call -force] || ![file exists $folder]} {create_project: $folder exists}
    file delete -force $folder
    file mkdir $folder
    set ::project [list $name $folder]
}
proc do_current_project {call args} {
    needs_project
    return project
}
proc do_current_fileset {call args} {
    needs_project
    return sources_1
}
proc do_set_param {call name value} {
    rule {$name eq "board.repoPaths"} {set_param: the model has no $name}
    rule {[file isdirectory [lindex $value 0]]} {set_param: $value is not a folder}
    lappend ::boards {*}[env_of MODEL_REPO_BOARDS ""]
}

proc do_set_property {call args} {
    if {[dict exists $call -dict]} {
        rule {[llength $args] == 1} {set_property -dict takes one object list, not $args}
        set pairs [dict get $call -dict]
        set objects [lindex $args 0]
        rule {[llength $pairs] % 2 == 0} {set_property: the list is no dictionary: $pairs}
    } else {
        rule {[llength $args] == 3} {set_property takes name, value and object, not $args}
        set pairs [lrange $args 0 1]
        set objects [lindex $args 2]
    }
    rule {[llength $objects] > 0} {set_property: there is no object}
    foreach object $objects {
        foreach {name given} $pairs {
            set_one $name $given $object
        }
    }
}

proc set_one {name given object} {
    if {$object eq "project" && $name eq "board_part"} {
        rule {$given in $::boards} {set_property: no board part $given}
        set ::board $given
    } elseif {$object eq "project" && $name eq "ip_repo_paths"} {
        foreach folder $given { rule {[file isdirectory $folder]} {set_property: $folder is not a folder} }
        set ::repositories $given
    } elseif {$object eq "sources_1" && $name eq "top"} {
        rule {$::wrapper ne "" && $given eq [file rootname [file tail $::wrapper]]} {set_property: no module $given}
        set ::top $given
    } elseif {[dict exists $::cells [string trimleft $object /]]} {
        set cell [string trimleft $object /]
        rule {[regsub {^CONFIG\.} $name "" parameter]} {set_property: $name of $object}
        set known [parameters [ip_of $cell]]
        rule {[dict exists $known $parameter]} {[ip_of $cell] has no parameter $parameter}
        rule {[legal [dict get $known $parameter] $given]} {[ip_of $cell]: $parameter cannot be $given}
        dict set ::config $cell $parameter $given
    } else {
        broken "set_property: the model has no $name of $object"
    }
}

proc do_get_property {call name object} {
    if {[dict exists $::runs $object]} {
        switch $name {
            STATUS { return [lindex [dict get $::runs $object] 0] }
            PROGRESS { return [lindex [dict get $::runs $object] 1] }
        }
    }
    if {$object in {path_max path_min} && $name eq "SLACK"} {
        return [expr {$object eq "path_max" ? [env_of MODEL_SETUP 0.1] : [env_of MODEL_HOLD 0.01]}]
    }
    foreach {parameter asked ip} {
        CONFIG.PSU__CRL_APB__PL0_REF_CTRL__ACT_FREQMHZ PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ zynq_ultra_ps_e
        CONFIG.PCW_ACT_FPGA0_PERIPHERAL_FREQMHZ PCW_FPGA0_PERIPHERAL_FREQMHZ processing_system7
    } {
        if {$name eq $parameter && [ip_of [string trimleft $object /]] eq $ip} {
            return [env_of MODEL_MHZ [value [string trimleft $object /] $asked ""]]
        }
    }
    broken "get_property: the model has no $name of $object"
}

proc do_get_board_parts {call args} {
    set found {}
    foreach pattern $args {
        foreach part $::boards {
            if {[string match $pattern $part]} { lappend found $part }
        }
    }
    return $found
}

proc do_update_ip_catalog {call} {
    needs_project
    set ::catalog $::repositories
}
proc do_get_ipdefs {call args} {
    rule {[info exists ::catalog]} {get_ipdefs before update_ip_catalog}
    set found {}
    foreach folder $::catalog {
        set file [open $folder/component.xml]
        rule {[regexp {<spirit:name>(\w+)</spirit:name>} [read $file] all name]} {update_ip_catalog: $folder/component.xml holds no IP}
        close $file
        set vlnv xilinx.com:hls:$name:1.0
        foreach pattern $args {
            if {[string match $pattern $vlnv]} { lappend found $vlnv }
        }
    }
    return $found
}

# --- block designs ---------------------------------------------------------------------------------------------------------------------------------------

proc do_create_bd_design {call name} {
    needs_project
    rule {$::design eq ""} {create_bd_design: $::design is open}
    set ::design $name
}

proc do_create_bd_cell {call name} {
    needs_design
    rule {[option $call -type ip] eq "ip" && [dict exists $call -vlnv]} {create_bd_cell: the model knows IP alone}
    rule {[regexp {^[a-zA-Z]\w*$} $name] && ![dict exists $::cells $name]} {create_bd_cell: the name $name}
    lassign [split [dict get $call -vlnv] :] vendor library ip
    rule {$vendor eq "xilinx.com" && $library in {ip hls}} {create_bd_cell: no IP [dict get $call -vlnv]}
    dict set ::cells $name [dict get $call -vlnv]
    parameters [ip_of $name]
    set ::validated 0
    return /$name
}

proc do_apply_bd_automation {call object} {
    set ip [ip_of [string trimleft $object /]]
    rule {[option $call -rule ""] eq "xilinx.com:bd_rule:$ip"} {apply_bd_automation: the rule for $ip is [option $call -rule ""]}
    array set given [option $call -config {}]
    set known [expr {$ip eq "processing_system7" ? {make_external apply_board_preset Master Slave} : {apply_board_preset Master Slave}}]
    foreach name [array names given] { rule {$name in $known} {apply_bd_automation: no $name for $ip} }
    if {$given(apply_board_preset)} { rule {$::board ne ""} {apply_bd_automation: a preset without a board} }
    if {$ip eq "processing_system7"} { rule {$given(make_external) eq "FIXED_IO, DDR"} {processing_system7: FIXED_IO and DDR must leave the chip} }
    set ::automated 1
}

proc matching {call all patterns} {
    set found {}
    foreach object $all {
        if {[dict exists $call -of_objects]} {
            if {[file dirname $object] in [dict get $call -of_objects] && [satisfies $object [option $call -filter ""]]} { lappend found $object }
        } else {
            foreach pattern $patterns {
                if {[string match [string trimleft $pattern /] [string trimleft $object /]]} { lappend found $object }
            }
        }
    }
    return $found
}

proc satisfies {object filter} {
    lassign [describe $object] mode kind
    foreach term [split [string map {&& \n} $filter] \n] {
        lassign $term key operator pattern
        switch $key {
            MODE { set is $mode }
            VLNV { set is xilinx.com:interface:${kind}_rtl:1.0 }
            NAME { set is [file tail $object] }
            default { broken "no property $key of $object" }
        }
        rule {$operator in {== =~ !~}} {filter: $operator}
        set holds [expr {$operator eq "==" ? $is eq $pattern : [string match $pattern $is]}]
        if {$holds == ($operator eq "!~")} { return 0 }
    }
    return 1
}

proc describe {object} {
    lassign [split [string trimleft $object /] /] cell pin
    foreach {name mode kind width} [intf_pins $cell] {
        if {$name eq $pin} { return [list $mode $kind $width] }
    }
}

proc do_get_bd_cells {call args} {
    needs_design
    set all {}
    foreach name [dict keys $::cells] { lappend all /$name }
    return [matching $call $all $args]
}

proc all_pins {kinds step} {
    set all {}
    foreach cell [dict keys $::cells] {
        foreach pin [$kinds $cell] {
            if {[incr i] % $step == 1} { lappend all /$cell/$pin }
        }
        set i 0
    }
    return $all
}

proc do_get_bd_pins {call args} {
    needs_design
    set found [matching $call [all_pins pins 2] $args]
    rule {[llength $found]} {get_bd_pins: there is no $args}
    return $found
}
proc do_get_bd_intf_pins {call args} {
    needs_design
    set found [matching $call [all_pins intf_pins 4] $args]
    rule {[llength $found] || [dict exists $call -of_objects]} {get_bd_intf_pins: there is no $args}
    return $found
}

proc do_connect_bd_net {call args} {
    set all [all_pins pins 2]
    foreach pin $args {
        rule {$pin in $all} {connect_bd_net: no pin $pin}
        foreach net $::nets { rule {$pin ni [lrange $net 1 end]} {connect_bd_net: $pin has a net already} }
    }
    lappend ::nets $args
    set ::validated 0
}

proc do_connect_bd_intf_net {call one other args} {
    foreach pin [list $one $other] {
        rule {[llength $pin] == 1 && [llength [describe $pin]]} {connect_bd_intf_net: no interface pin $pin}
    }
    lassign [describe $one] mode_1 kind_1 width_1
    lassign [describe $other] mode_2 kind_2 width_2
    rule {$mode_1 ne $mode_2} {connect_bd_intf_net: $one and $other are both $mode_1}
    rule {$kind_1 eq $kind_2} {connect_bd_intf_net: $one is $kind_1, $other is $kind_2}
    rule {$width_1 == $width_2} {connect_bd_intf_net: $one has $width_1 bits, $other $width_2}
    foreach pin [list $one $other] {
        foreach net $::intf_nets { rule {$pin ni $net} {connect_bd_intf_net: $pin has a net already} }
    }
    lappend ::intf_nets [list $one $other]
    set ::validated 0
    set ::assigned 0
}

proc do_assign_bd_address {call args} {
    needs_design
    set ::assigned 1
    set ::reached [dict create]
    foreach cell [dict keys $::cells] {
        foreach {pin mode kind width} [intf_pins $cell] {
            if {$kind eq "aximm" && $mode eq "Master" && [ip_of $cell] ne "smartconnect"} {
                dict set ::reached /$cell/$pin [slaves_of /$cell/$pin]
            }
        }
    }
}

# The ends that a master reaches, through SmartConnects.
proc slaves_of {master} {
    foreach net $::intf_nets {
        set place [lsearch -exact $net $master]
        if {$place < 0} { continue }
        set slave [lindex $net [expr {1 - $place}]]
        set cell [lindex [split $slave /] 1]
        if {[ip_of $cell] ne "smartconnect"} { return [list $slave] }
        set found {}
        foreach {pin mode kind width} [intf_pins $cell] {
            if {$mode eq "Master"} { lappend found {*}[slaves_of /$cell/$pin] }
        }
        return $found
    }
}

proc do_validate_bd_design {call} {
    needs_design
    rule {$::assigned} {validate_bd_design: addresses are not assigned}
    foreach cell [dict keys $::cells] {
        if {[ip_of $cell] eq "processing_system7"} { rule {[info exists ::automated]} {validate_bd_design: DDR and FIXED_IO of $cell are not connected} }
        foreach {pin kind} [pins $cell] {
            if {$kind ni {clock reset}} { continue }
            set driver ""
            foreach net $::nets {
                if {"/$cell/$pin" in $net} {
                    foreach other $net {
                        lassign [split [string trimleft $other /] /] at name
                        if {[dict get [pins $at] $name] eq "${kind}_out"} { set driver $other }
                    }
                }
            }
            rule {$driver ne ""} {validate_bd_design: nothing drives the $kind /$cell/$pin}
        }
        foreach {pin mode kind width} [intf_pins $cell] {
            set connected 0
            foreach net $::intf_nets { incr connected [expr {"/$cell/$pin" in $net}] }
            rule {$connected} {validate_bd_design: /$cell/$pin is not connected}
        }
        foreach {pin mode kind width} [intf_pins $cell] {
            if {$kind ne "aximm" || [ip_of $cell] eq "smartconnect"} { continue }
            # Registers have one place in the processor's address space; a DMA reaches one port into memory, and nothing else.
            if {$mode eq "Slave" && ![regexp {^(zynq_ultra_ps_e|processing_system7)$} [ip_of $cell]]} {
                set count 0
                dict for {master slaves} $::reached { incr count [llength [lsearch -all -exact $slaves /$cell/$pin]] }
                rule {$count == 1} {validate_bd_design: /$cell/$pin has $count addresses}
            }
            if {$mode eq "Master" && [ip_of $cell] in {axi_dma accelerator}} {
                rule {[string match /ps/* [dict get $::reached /$cell/$pin]]} {validate_bd_design: /$cell/$pin reaches [dict get $::reached /$cell/$pin]}
            }
        }
        if {[ip_of $cell] eq "axi_dma"} {
            rule {[value $cell c_include_mm2s 1] || [value $cell c_include_s2mm 1]} {validate_bd_design: $cell has no channel}
            foreach {side memory stream} {
                mm2s c_m_axi_mm2s_data_width c_m_axis_mm2s_tdata_width s2mm c_m_axi_s2mm_data_width c_s_axis_s2mm_tdata_width
            } {
                if {![value $cell c_include_$side 1]} { continue }
                rule {[value $cell $memory 32] >= [value $cell $stream 32]} {validate_bd_design: $memory of $cell is less than $stream}
            }
        }
    }
    set ::validated 1
}

proc do_save_bd_design {call args} {
    needs_design
    set folder [lindex $::project 1]/[lindex $::project 0].srcs/sources_1/bd/$::design
    file mkdir $folder
    close [open $folder/$::design.bd w]
    set ::saved $folder/$::design.bd
}

proc do_get_files {call args} {
    set found {}
    foreach pattern $args {
        if {[info exists ::saved] && [string match $pattern [file tail $::saved]]} { lappend found $::saved }
    }
    return $found
}

proc do_make_wrapper {call args} {
    rule {$::validated} {make_wrapper: the design is not validated}
    rule {[info exists ::saved] && [option $call -files ""] eq $::saved} {make_wrapper: the files are [option $call -files ""]}
    rule {[dict exists $call -top] != [dict exists $call -testbench]} {make_wrapper: -top or -testbench}
    set ::wrapper [file dirname $::saved]/hdl/${::design}_wrapper.v
    set handoff [lindex $::project 1]/[lindex $::project 0].[env_of MODEL_HANDOFF gen]/sources_1/bd/$::design/hw_handoff
    file mkdir [file dirname $::wrapper] $handoff
    close [open $::wrapper w]
    close [open $handoff/$::design.hwh w]
    return $::wrapper
}

# --- runs ------------------------------------------------------------------------------------------------------------------------------------------------

proc do_add_files {call args} {
    needs_project
    foreach path $args { rule {[file isfile $path]} {add_files: $path is not a file} }
    set ::added 1
}
proc do_update_compile_order {call} {
    needs_project
}

proc do_launch_runs {call run} {
    rule {$::top ne "" && [info exists ::added]} {launch_runs: there is no top module}
    rule {[dict exists $::runs $run]} {launch_runs: no run $run}
    rule {[string is integer -strict [option $call -jobs 1]]} {launch_runs: [option $call -jobs 1] jobs}
    set last [option $call -to_step [expr {$run eq "synth_1" ? "synth_design" : "route_design"}]]
    if {$run eq "impl_1"} { rule {[lindex [dict get $::runs synth_1] 1] eq "100%"} {launch_runs: synthesis is not done} }
    rule {$last in {synth_design route_design write_bitstream}} {launch_runs: no step $last}
    dict set ::runs $run {"Running" 0%}
    set ::launched [list $run $last]
}
proc do_wait_on_run {call run} {
    rule {[info exists ::launched] && [lindex $::launched 0] eq $run} {wait_on_run: $run was not launched}
    set last [lindex $::launched 1]
    if {[env_of MODEL_FAIL ""] in $::launched} {
        dict set ::runs $run [list "$last ERROR" 42%]
        return
    }
    set late [expr {$last eq "route_design" && [env_of MODEL_SETUP 0.1] ne "" && [env_of MODEL_SETUP 0.1] < 0}]
    dict set ::runs $run [list "$last Complete[expr {$late ? ", Failed Timing!" : "!"}]" [expr {$last eq "route_design" ? "80%" : "100%"}]]
    if {$last eq "write_bitstream"} {
        set folder [lindex $::project 1]/[lindex $::project 0].runs/impl_1
        file mkdir $folder
        set file [open $folder/${::top}.bit w]
        puts $file "a bitstream"
        close $file
    }
}
proc do_get_runs {call args} {
    foreach run $args { rule {[dict exists $::runs $run]} {get_runs: no run $run} }
    return $args
}
proc do_open_run {call run} {
    rule {[string match *Complete* [lindex [dict get $::runs $run] 0]]} {open_run: $run is not complete}
    set ::opened $run
}
proc report {call} {
    rule {$::opened eq "impl_1"} {a report of an implementation that is not open}
    if {[dict exists $call -file]} { close [open [dict get $call -file] w] }
}
proc do_report_utilization {call} {
    report $call
}
proc do_report_timing_summary {call} {
    report $call
}
proc do_get_timing_paths {call} {
    rule {$::opened eq "impl_1"} {get_timing_paths without an implementation}
    set type [option $call -delay_type max]
    rule {$type in {max min}} {get_timing_paths: -delay_type $type}
    return [expr {[env_of [expr {$type eq "max" ? "MODEL_SETUP" : "MODEL_HOLD"}] 0] eq "" ? "" : "path_$type"}]
}
proc do_write_hw_platform {call file} {
    rule {[file extension $file] eq ".xsa"} {write_hw_platform: $file}
    rule {![dict exists $call -include_bit] || [lindex [dict get $::runs impl_1] 0] eq "write_bitstream Complete!"} {write_hw_platform: no bitstream}
    close [open $file w]
}

rule {[lrange $argv 0 2] eq "-mode batch -source" && [llength $argv] == 4} {the tool is not called like that: $argv}
run_script [lindex $argv 3]
