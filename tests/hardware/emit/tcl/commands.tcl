# Stand-ins for a vendor's Tcl commands. A table says which options a command knows; anything else ends the run with status 3, as does every rule that a
# model of a tool (hls.tcl, vivado.tcl) finds broken. What was called is written to the file MODEL_LOG, one Tcl list a line.

proc broken {complaint} {
    puts stderr "model: $complaint"
    exit 3
}

proc rule {holds complaint} {
    if {![uplevel 1 [list expr $holds]]} {
        broken [uplevel 1 [list subst $complaint]]
    }
}

proc env_of {name default} {
    return [expr {[info exists ::env($name)] ? $::env($name) : $default}]
}

# flags stand alone, options take a value, required options must be there; so many words may come besides.
proc command {name flags options required least most} {
    proc $name {args} [format {
        set call [parse %s {%s} {%s} {%s} %d %d $args]
        return [do_%s $call {*}[dict get $call words]]
    } $name "$flags -quiet -verbose" $options $required $least $most $name]
}

proc parse {name flags options required least most words} {
    if {[info exists ::env(MODEL_LOG)]} {
        set log [open $::env(MODEL_LOG) a]
        puts $log [list $name {*}$words]
        close $log
    }
    set call [dict create words {}]
    for {set i 0} {$i < [llength $words]} {incr i} {
        set word [lindex $words $i]
        if {[string index $word 0] ne "-" || [string is double -strict $word]} {
            dict lappend call words $word
        } elseif {$word in $flags} {
            dict set call $word 1
        } elseif {$word in $options} {
            incr i
            rule {$i < [llength $words]} {$name: $word needs a value}
            dict set call $word [lindex $words $i]
        } else {
            broken "$name has no option $word"
        }
    }
    foreach option $required {
        rule {[dict exists $call $option]} {$name needs $option}
    }
    set count [llength [dict get $call words]]
    rule {$count >= $least && $count <= $most} {$name takes $least to $most words, not $count: [dict get $call words]}
    return $call
}

proc option {call name default} {
    return [expr {[dict exists $call $name] ? [dict get $call $name] : $default}]
}

# Run a script as the tool would: an error in it, and a command that is not in the table, end with status 1.
proc run_script {path} {
    set ::argv0 $path
    if {[catch {uplevel #0 [list source $path]} message]} {
        puts stderr "ERROR: $message"
        exit 1
    }
    exit 0
}
