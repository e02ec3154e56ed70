# The IP that a block design may hold (PG021, PG085, PG082, PG201, PG164, PG247): parameters (name, check), pins (name, kind) and interface pins (name,
# mode, kind, width in bits or 0). A cell of the global cells has the parameters in the global config, or the defaults here.

proc number {low high} {
    return [list number $low $high]
}
proc among {args} {
    return [list among {*}$args]
}
proc legal {check value} {
    switch [lindex $check 0] {
        number { return [expr {[string is double -strict $value] && $value >= [lindex $check 1] && $value <= [lindex $check 2]}] }
        among { return [expr {$value in [lrange $check 1 end]}] }
    }
}

proc parameters {ip} {
    set bit [among 0 1]
    switch $ip {
        zynq_ultra_ps_e {
            set known [dict create PSU__FPGA_PL0_ENABLE $bit PSU__USE__FABRIC__RST $bit PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ [number 1 1600]]
            foreach i {0 1 2} { dict set known PSU__USE__M_AXI_GP$i $bit }
            foreach i {0 1 2 3 4 5 6} { dict set known PSU__USE__S_AXI_GP$i $bit }
            return $known
        }
        processing_system7 {
            set known [dict create PCW_EN_CLK0_PORT $bit PCW_EN_RST0_PORT $bit PCW_FPGA0_PERIPHERAL_FREQMHZ [number 0.1 250]]
            foreach i {0 1} { dict set known PCW_USE_M_AXI_GP$i $bit }
            foreach i {0 1 2 3} { dict set known PCW_USE_S_AXI_HP$i $bit }
            return $known
        }
        axi_dma {
            set known [dict create c_include_sg $bit c_sg_include_stscntrl_strm $bit c_sg_length_width [number 8 26] c_addr_width [number 32 64]]
            foreach {side port} {mm2s m_axis s2mm s_axis} {
                dict set known c_include_$side $bit
                dict set known c_include_${side}_dre $bit
                dict set known c_m_axi_${side}_data_width [among 32 64 128 256 512 1024]
                dict set known c_${port}_${side}_tdata_width [among 8 16 32 64 128 256 512 1024]
            }
            return $known
        }
        smartconnect { return [dict create NUM_SI [number 1 16] NUM_MI [number 1 64] NUM_CLKS [number 1 20]] }
        axis_dwidth_converter {
            return [dict create S_TDATA_NUM_BYTES [number 1 512] M_TDATA_NUM_BYTES [number 1 512] HAS_TLAST $bit HAS_TKEEP $bit HAS_TSTRB $bit]
        }
        proc_sys_reset - accelerator { return [dict create] }
    }
    broken "the model has no IP $ip"
}

proc value {cell parameter default} {
    return [expr {[dict exists $::config $cell $parameter] ? [dict get $::config $cell $parameter] : $default}]
}

# name, kind; kinds: clock, reset (inputs), clock_out, reset_out, in, out
proc pins {cell} {
    set found {}
    switch [ip_of $cell] {
        zynq_ultra_ps_e {
            if {[value $cell PSU__FPGA_PL0_ENABLE 1]} { lappend found pl_clk0 clock_out }
            if {[value $cell PSU__USE__FABRIC__RST 1]} { lappend found pl_resetn0 reset_out }
            foreach {i name} {0 maxihpm0_fpd 1 maxihpm1_fpd 2 maxihpm0_lpd} {
                if {[value $cell PSU__USE__M_AXI_GP$i 1]} { lappend found ${name}_aclk clock }
            }
            foreach {i name} {0 saxihpc0_fpd 1 saxihpc1_fpd 2 saxihp0_fpd 3 saxihp1_fpd 4 saxihp2_fpd 5 saxihp3_fpd} {
                if {[value $cell PSU__USE__S_AXI_GP$i 0]} { lappend found ${name}_aclk clock }
            }
        }
        processing_system7 {
            if {[value $cell PCW_EN_CLK0_PORT 0]} { lappend found FCLK_CLK0 clock_out }
            if {[value $cell PCW_EN_RST0_PORT 0]} { lappend found FCLK_RESET0_N reset_out }
            foreach {name on} {M_AXI_GP0 1 M_AXI_GP1 1 S_AXI_HP0 0 S_AXI_HP1 0 S_AXI_HP2 0 S_AXI_HP3 0} {
                if {[value $cell PCW_USE_$name $on]} { lappend found ${name}_ACLK clock }
            }
        }
        axi_dma {
            lappend found s_axi_lite_aclk clock axi_resetn reset
            foreach side {mm2s s2mm} {
                if {[value $cell c_include_$side 1]} { lappend found m_axi_${side}_aclk clock ${side}_introut out }
            }
            if {[value $cell c_include_sg 1]} { lappend found m_axi_sg_aclk clock }
        }
        smartconnect { lappend found aclk clock aresetn reset }
        axis_dwidth_converter { lappend found aclk clock aresetn reset }
        proc_sys_reset {
            lappend found slowest_sync_clk clock ext_reset_in reset aux_reset_in in dcm_locked in mb_debug_sys_rst in \
                peripheral_aresetn reset_out interconnect_aresetn reset_out peripheral_reset reset_high_out
        }
        accelerator { lappend found ap_clk clock ap_rst_n reset interrupt out }
    }
    return $found
}

# name, mode, kind, width
proc intf_pins {cell} {
    set found {}
    switch [ip_of $cell] {
        zynq_ultra_ps_e {
            foreach {i name} {0 M_AXI_HPM0_FPD 1 M_AXI_HPM1_FPD 2 M_AXI_HPM0_LPD} {
                if {[value $cell PSU__USE__M_AXI_GP$i 1]} { lappend found $name Master aximm 0 }
            }
            foreach {i name} {0 S_AXI_HPC0_FPD 1 S_AXI_HPC1_FPD 2 S_AXI_HP0_FPD 3 S_AXI_HP1_FPD 4 S_AXI_HP2_FPD 5 S_AXI_HP3_FPD} {
                if {[value $cell PSU__USE__S_AXI_GP$i 0]} { lappend found $name Slave aximm 0 }
            }
        }
        processing_system7 {
            foreach {name mode on} {M_AXI_GP0 Master 1 M_AXI_GP1 Master 1 S_AXI_HP0 Slave 0 S_AXI_HP1 Slave 0 S_AXI_HP2 Slave 0 S_AXI_HP3 Slave 0} {
                if {[value $cell PCW_USE_$name $on]} { lappend found $name $mode aximm 0 }
            }
        }
        axi_dma {
            lappend found S_AXI_LITE Slave aximm 0
            if {[value $cell c_include_mm2s 1]} {
                lappend found M_AXI_MM2S Master aximm 0 M_AXIS_MM2S Master axis [value $cell c_m_axis_mm2s_tdata_width 32]
            }
            if {[value $cell c_include_s2mm 1]} {
                lappend found M_AXI_S2MM Master aximm 0 S_AXIS_S2MM Slave axis [value $cell c_s_axis_s2mm_tdata_width 32]
            }
            if {[value $cell c_include_sg 1]} { lappend found M_AXI_SG Master aximm 0 }
        }
        smartconnect {
            for {set i 0} {$i < [value $cell NUM_SI 2]} {incr i} { lappend found [format S%02d_AXI $i] Slave aximm 0 }
            for {set i 0} {$i < [value $cell NUM_MI 1]} {incr i} { lappend found [format M%02d_AXI $i] Master aximm 0 }
        }
        axis_dwidth_converter {
            lappend found S_AXIS Slave axis [expr {8 * [value $cell S_TDATA_NUM_BYTES 1]}] M_AXIS Master axis [expr {8 * [value $cell M_TDATA_NUM_BYTES 1]}]
        }
        accelerator {
            foreach name [env_of MODEL_MASTERS ""] { lappend found m_axi_$name Master aximm 0 }
            if {[env_of MODEL_WEIGHTS_BITS ""] ne ""} { lappend found weights Slave axis $::env(MODEL_WEIGHTS_BITS) }
            if {[env_of MODEL_STREAMS ""] ne ""} {
                foreach {name mode bits} $::env(MODEL_STREAMS) { lappend found $name $mode axis $bits }
                lappend found s_axi_control Slave aximm 0
                return $found
            }
            if {[env_of MODEL_NO_STREAMS ""] ne ""} {
                lappend found s_axi_control Slave aximm 0
                return $found
            }
            lappend found s_axi_control Slave aximm 0 in_r Slave axis [env_of MODEL_IN_BITS 8] out_r Master axis [env_of MODEL_OUT_BITS 8]
        }
    }
    return $found
}

proc ip_of {cell} {
    lassign [split [dict get $::cells $cell] :] vendor library name
    return [expr {$library eq "hls" ? "accelerator" : $name}]
}
