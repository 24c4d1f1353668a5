# The writing guest: boots from the first sector on a BIOS, checks every record on its disks, then writes new ones.
# Theory, layout and the invariant are in records.py, which checks the same things from outside; keep them in step.
# Real mode throughout: INT 13h drives whatever controller the disks hang on, and nothing else is needed.

        .intel_syntax noprefix
        .code16

        .set BUFFER, 0x1000             # segment of the record in hand (64 KiB)
        .set TABLE, 0x2000              # segment of the table: a dword per slot, up to 0x90000
        .set LABEL_SECTOR, 32
        .set LABEL_MAGIC, 0x4c425354    # TSBL
        .set MAGIC, 0x43525354          # TSRC
        .set GOLDEN, 0x9e3779b1
        .set STEP, 0x85ebca6b
        .set HEADER, 24                 # bytes before the payload
        .set CORRUPT, 0xffffffff
        .set MAX_DISKS, 16
        .set COM1, 0x3f8
        .set TICKS, 0x46c               # BIOS timer, 18.2 Hz

        .globl _start
_start: .byte 0xea                      # far jump, so that cs is 0
        .word boot, 0
boot:   cli
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 0x7000              # not in the code's page, see `dap`
        sti
        cld
        mov     si, offset load
        mov     ah, 0x42
        int     0x13
        jc      stop
        jmp     main
stop:   hlt
        jmp     stop
load:   .byte   16, 0
        .word   15, 0x7e00, 0
        .quad   1
        .org    510
        .word   0xaa55

main:   call    serial_init
        mov     si, offset text_start
        call    print
        call    find_disks
        call    scan
        call    judge
        call    report
        cmp     dword ptr [mode], 0
        jne     power_off
        call    write
        mov     si, offset text_bye
        call    print_last
power_off:
        mov     dx, 0x604               # PM1a control as SeaBIOS places it, on i440fx and q35
        mov     ax, 0x2000
        out     dx, ax
        jmp     stop

fail:   push    si
        mov     si, offset text_fail
        call    print
        pop     si
        call    print
        mov     si, offset text_end
        call    print
        jmp     power_off

# find_disks: read the label of every BIOS disk; the first label tells the set, others of the set tell their place in it
find_disks:
        mov     byte ptr [drive], 0x80
1:      mov     word ptr [dap_count], 1
        mov     dword ptr [dap_lba], LABEL_SECTOR
        mov     ah, 0x42
        call    disk_io
        jc      3f
        mov     ax, BUFFER
        mov     es, ax
        cmp     dword ptr es:[0], LABEL_MAGIC
        jne     3f
        cmp     dword ptr [found], 0
        jne     2f
        push    ds                      # copy the label to `label`
        push    es
        pop     ds
        xor     si, si
        xor     ax, ax
        mov     es, ax
        mov     di, offset label
        mov     cx, 12
        rep movsd
        pop     ds
        mov     ax, BUFFER
        mov     es, ax
2:      mov     eax, es:[4]
        cmp     eax, [tag]
        jne     3f
        movzx   ebx, word ptr es:[8]
        cmp     ebx, MAX_DISKS
        jae     3f
        mov     al, [drive]
        mov     [drives + ebx], al
        mov     eax, es:[24]
        mov     [strides + ebx * 4], eax
        inc     dword ptr [found]
3:      inc     byte ptr [drive]
        cmp     byte ptr [drive], 0x80 + MAX_DISKS
        jb      1b
        mov     eax, [found]
        mov     si, offset text_disks
        test    eax, eax
        jz      fail
        cmp     eax, [disks]
        jne     fail
        mov     eax, [record_sectors]
        mov     [dap_count], ax
        shl     eax, 7
        mov     [record_dwords], eax
        ret

# scan: read every slot, leave its number in the table (0 empty, CORRUPT bad), find the highest
scan:   mov     dword ptr [disk], 0
1:      mov     dword ptr [slot], 0
2:      call    seek
        mov     ah, 0x42
        call    disk_io
        mov     eax, CORRUPT
        jc      3f
        call    verify
3:      call    entry
        mov     es:[di], eax
        cmp     eax, CORRUPT
        je      4f
        cmp     eax, [last]
        jbe     4f
        mov     [last], eax
4:      inc     dword ptr [slot]
        mov     eax, [slot]
        cmp     eax, [slots]
        jb      2b
        inc     dword ptr [disk]
        mov     eax, [disk]
        cmp     eax, [disks]
        jb      1b
        ret

# verify: eax = the number of the record in the buffer if it is whole and belongs to this disk and slot
verify: mov     ax, BUFFER
        mov     es, ax
        mov     ecx, [record_dwords]
        mov     eax, es:[0]
        test    eax, eax
        jz      verify_empty
        cmp     eax, MAGIC
        jne     bad
        mov     eax, es:[8]
        cmp     eax, [disk]
        jne     bad
        mov     eax, es:[12]
        cmp     eax, [slot]
        jne     bad
        mov     eax, es:[16]
        cmp     eax, [tag]
        jne     bad
        mov     eax, es:[4]
        test    eax, eax
        jz      bad
        push    dword ptr [disk]
        push    dword ptr [slot]
        call    locate                  # where the number belongs
        mov     ebx, [disk]
        mov     edx, [slot]
        pop     dword ptr [slot]
        pop     dword ptr [disk]
        cmp     ebx, [disk]
        jne     bad
        cmp     edx, [slot]
        jne     bad
        call    pattern                 # ebx = first payload dword
        xor     edx, edx
        mov     di, HEADER
        sub     ecx, HEADER / 4
1:      mov     eax, es:[di]
        cmp     eax, ebx
        jne     bad
        add     edx, eax
        add     ebx, STEP
        add     di, 4
        dec     ecx
        jnz     1b
        call    header_sum
        cmp     edx, es:[20]
        jne     bad
        mov     eax, es:[4]
        ret
bad:    mov     eax, CORRUPT
        ret
verify_empty:
        xor     di, di
        repe scasd
        jne     bad
        ret

# header_sum: edx += the header's dwords but the checksum
header_sum:
        add     edx, es:[0]
        add     edx, es:[4]
        add     edx, es:[8]
        add     edx, es:[12]
        add     edx, es:[16]
        ret

# pattern: ebx = first payload dword of the record in the buffer
pattern:
        mov     eax, es:[4]
        imul    eax, eax, GOLDEN
        mov     ebx, eax
        ret

# judge: count from `last` back over as many numbers as there are slots; each must stand in its slot, and nothing else
judge:  mov     eax, [disks]
        mul     dword ptr [slots]
        mov     ecx, eax
        push    ecx
        mov     eax, [last]
1:      test    eax, eax
        jz      3f
        push    eax
        push    ecx
        call    locate
        call    entry
        pop     ecx
        pop     eax
        cmp     es:[di], eax
        jne     2f
        inc     dword ptr [valid]
        jmp     4f
2:      inc     dword ptr [wrong]
4:      mov     dword ptr es:[di], 0
        dec     eax
        dec     ecx
        jnz     1b
3:      pop     ecx                     # what is left in the table was not expected
        mov     dword ptr [disk], 0
        mov     dword ptr [slot], 0
        mov     ebx, 0
5:      mov     eax, ebx
        call    entry_at
        cmp     dword ptr es:[di], 0
        je      6f
        inc     dword ptr [wrong]
6:      inc     ebx
        cmp     ebx, ecx
        jb      5b
        ret

report: mov     si, offset text_check
        call    print
        mov     eax, [last]
        call    print_number
        mov     si, offset text_valid
        call    print
        mov     eax, [valid]
        call    print_number
        mov     si, offset text_bad
        call    print
        mov     eax, [wrong]
        call    print_number
        mov     si, offset text_end
        jmp     print

# write: records from last + 1 on, at the rate, until `q` comes. A tick earns rate * 10, a record costs 182.
write:  mov     eax, ds:[TICKS]
        mov     [tick], eax
1:      call    serial_poll
        cmp     al, 'q'
        je      9f
        mov     eax, ds:[TICKS]
        mov     ebx, eax
        sub     ebx, [tick]
        jz      4f
        mov     [tick], eax
        cmp     ebx, 18                 # late, or midnight: a second's worth at most
        jbe     2f
        mov     ebx, 18
2:      add     [quiet], ebx
        imul    ebx, ebx, 10
        imul    ebx, [rate]
        add     ebx, [credit]
        imul    eax, [rate], 182
        add     eax, 182
        cmp     ebx, eax
        jbe     3f
        mov     ebx, eax
3:      mov     [credit], ebx
        cmp     dword ptr [quiet], 18
        jb      4f
        mov     dword ptr [quiet], 0
        mov     si, offset text_last
        call    print_last
4:      cmp     dword ptr [rate], 0
        je      5f
        cmp     dword ptr [credit], 182
        jb      6f
        sub     dword ptr [credit], 182
5:      call    write_one
        jmp     1b
6:      hlt                             # until the next tick
        jmp     1b
9:      ret

write_one:
        mov     eax, [last]
        inc     eax
        call    locate
        mov     bx, BUFFER
        mov     es, bx
        mov     dword ptr es:[0], MAGIC
        mov     eax, [last]
        inc     eax
        mov     es:[4], eax
        mov     eax, [disk]
        mov     es:[8], eax
        mov     eax, [slot]
        mov     es:[12], eax
        mov     eax, [tag]
        mov     es:[16], eax
        call    pattern
        xor     edx, edx
        mov     di, HEADER
        mov     ecx, [record_dwords]
        sub     ecx, HEADER / 4
1:      mov     es:[di], ebx
        add     edx, ebx
        add     ebx, STEP
        add     di, 4
        dec     ecx
        jnz     1b
        call    header_sum
        mov     es:[20], edx
        call    seek
        mov     ax, 0x4300
        call    disk_io
        mov     si, offset text_write
        jc      fail
        inc     dword ptr [last]
        ret

# locate: [disk], [slot] = where record number eax belongs
locate: push    ecx
        xor     edx, edx
        div     dword ptr [disks]
        mov     [disk], edx
        xor     edx, edx
        div     dword ptr [slots]
        mov     eax, edx
        mul     dword ptr [prime]
        div     dword ptr [slots]
        mov     [slot], edx
        pop     ecx
        ret

# entry: es:di = table entry of [disk], [slot]; eax is kept. entry_at: the same of index eax, which is lost
entry:  push    eax
        push    edx
        mov     eax, [disk]
        mul     dword ptr [slots]
        add     eax, [slot]
        call    entry_at
        pop     edx
        pop     eax
        ret
entry_at:
        mov     di, ax
        and     di, 3
        shl     di, 2
        shr     eax, 2
        add     ax, TABLE
        mov     es, ax
        ret

# seek: dap and drive for [disk], [slot]
seek:   mov     ebx, [disk]
        mov     al, [drives + ebx]
        mov     [drive], al
        mov     eax, [slot]
        mul     dword ptr [strides + ebx * 4]
        add     eax, [first]
        mov     [dap_lba], eax
        ret

disk_io:
        pushad
        push    es
        mov     dl, [drive]
        mov     si, offset dap
        int     0x13
        pop     es
        popad
        ret

serial_init:
        mov     dx, COM1 + 3
        mov     al, 0x80
        out     dx, al
        mov     dx, COM1                # 115200 baud
        mov     al, 1
        out     dx, al
        inc     dx
        xor     al, al
        out     dx, al
        mov     dx, COM1 + 3            # 8 bits, no parity; interrupts stay off
        mov     al, 3
        out     dx, al
        mov     dx, COM1 + 2
        mov     al, 1
        out     dx, al
        ret

serial_poll:
        mov     dx, COM1 + 5
        in      al, dx
        test    al, 1
        mov     al, 0
        jz      1f
        mov     dx, COM1
        in      al, dx
1:      ret

put:    push    dx
        push    ax
        mov     dx, COM1 + 5
1:      in      al, dx
        test    al, 0x20
        jz      1b
        pop     ax
        mov     dx, COM1
        out     dx, al
        pop     dx
        ret

print:  lodsb
        test    al, al
        jz      1f
        call    put
        jmp     print
1:      ret

print_last:
        call    print
        mov     eax, [last]
        call    print_number
        mov     si, offset text_end
        jmp     print

print_number:
        mov     ebx, 10
        xor     cx, cx
1:      xor     edx, edx
        div     ebx
        push    dx
        inc     cx
        test    eax, eax
        jnz     1b
2:      pop     ax
        add     al, '0'
        call    put
        loop    2b
        ret

text_start: .asciz "TRANSHIP START\r\n"
text_check: .asciz "TRANSHIP CHECK last="
text_valid: .asciz " valid="
text_bad:   .asciz " bad="
text_last:  .asciz "TRANSHIP LAST "
text_bye:   .asciz "TRANSHIP BYE last="
text_fail:  .asciz "TRANSHIP FAIL "
text_disks: .asciz "a disk of the set is missing"
text_write: .asciz "a write was refused"
text_end:   .asciz "\r\n"

        .org    0x1400                  # a page of its own: emulators translate code anew when its page is written
dap:    .byte   16, 0
dap_count: .word 0
        .word   0, BUFFER
dap_lba: .quad  0

label:  .long   0
tag:    .long   0
        .long   0                       # this disk's place
disks:  .long   0
slots:  .long   0
record_sectors: .long 0
        .long   0                       # this disk's stride
first:  .long   0
prime:  .long   0
rate:   .long   0
mode:   .long   0
        .long   0

record_dwords: .long 0
found:  .long   0
disk:   .long   0
slot:   .long   0
last:   .long   0
valid:  .long   0
wrong:  .long   0
tick:   .long   0
quiet:  .long   0
credit: .long   0
drive:  .byte   0
drives: .fill   MAX_DISKS, 1, 0
        .balign 4
strides: .fill  MAX_DISKS, 4, 0
        .org    16 * 512
